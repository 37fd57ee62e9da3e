"""The Wan diffusion transformer (DiT) for one frame.

`FrameTransformer` computes what diffusers' `WanTransformer3DModel` computes for `num_frames=1`, with the same
parameters (shared, not copied), and leaves out what one frame makes redundant:

* All tokens of a frame share the noise level, so the time embedding is one vector a row, not one a token.
* The keys and values of the text depend on the prompt alone, so they are made once a row (`context`), not once
  a step.
* Wan pads the text with zero vectors up to 512 tokens *and attends to them*. The n padding tokens have one
  identical key and value, and n equal softmax terms are one term times n: so one key with ln(n) added to its
  score stands for them all.
* Query, key and value are one matrix product (`fuse`).

An evaluation may also leave out a span of blocks and add a remembered residual for it (`forward_reusing`). Blocks
can be compiled (`compile_blocks`) and their large layers replaced by FP8 ones (`fp8.py`).

It does not know about guidance, schedules or batching; see `denoise.py` for those.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wanbatch.errors import UserError

TEXT_TOKENS = 512  # the length that Wan pads every prompt to
# On a CPU the rows of a matrix product of 5, 6, 7, 9, 10 or 11 rows differ in the last bit by their places.
ROWS_OF_A_TILE = 4
ATTENTION_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def cudnn_first(forward: Callable) -> Callable:
    """On a GPU, let attention run on cuDNN's kernel: at 880 tokens twice as fast as PyTorch's first choice."""

    @functools.wraps(forward)
    def chosen(self: FrameTransformer, latents: Tensor, *arguments: Any, **named: Any) -> Any:
        if latents.device.type != "cuda":
            return forward(self, latents, *arguments, **named)
        with sdpa_kernel(ATTENTION_KERNELS, set_priority=True):
            return forward(self, latents, *arguments, **named)

    return chosen


@dataclass(frozen=True, slots=True)
class Context:
    """What the cross-attention of every block sees of a batch of prompts.

    keys, values: [layers, batch, heads, length, head_dim], in the model's dtype.
    bias: [batch, 1, 1, length], added to the attention scores: 0 for a token, -inf for an empty place and the
        logarithm of the number of padding tokens on the last two places, which stand for them.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all blocks of one evaluation share. height, width: in tokens."""

    height: int
    width: int
    rotary: tuple[Tensor, Tensor]
    embedding: Tensor
    modulation: Tensor


class FrameTransformer(nn.Module):
    """One frame through a `WanTransformer3DModel`.

    model: a diffusers `WanTransformer3DModel` for text (Wan2.1 T2V, Wan2.2 TI2V-5B, either expert of A14B).
    Raises UserError for a model with an image encoder or with a patch longer than a frame.
    """

    # Parts of diffusers' modules, which carry no types.
    patch_embedding: Any
    condition_embedder: Any
    rope: Any
    norm_out: Any
    proj_out: Any
    scale_shift_table: Any
    blocks: Any

    def __init__(self, model: Any):
        super().__init__()
        patch_frames, patch_height, patch_width = model.config.patch_size
        if patch_frames != 1:
            raise UserError(f"a transformer with patches of {patch_frames} frames cannot make single frames")
        if model.config.image_dim is not None or model.config.added_kv_proj_dim is not None:
            raise UserError(
                "a transformer with an image encoder (Wan2.1 I2V) is not supported; use a T2V or TI2V one"
            )
        self.patch = (patch_height, patch_width)
        self.in_channels, self.out_channels = model.config.in_channels, model.config.out_channels
        self.patch_embedding = model.patch_embedding
        self.condition_embedder = model.condition_embedder
        self.blocks = nn.ModuleList(FrameBlock(block) for block in model.blocks)
        self.norm_out, self.proj_out = model.norm_out, model.proj_out
        self.scale_shift_table = model.scale_shift_table
        self.rope = model.rope
        self._fused: Any = None  # the module that runs the blocks instead
        self._rotary_tables: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.scale_shift_table.shape[-1]

    def fuse(self) -> FrameTransformer:
        """Lay each block's query, key and value weights in one matrix, of which they become views. For inference."""
        for block in self.blocks:
            block.fuse()
        return self

    def use_kernels(self) -> FrameTransformer:
        """Run the blocks with our own kernels from now on, if they are of the common form; see `dit_fused.py`."""
        from wanbatch.pipeline.models import dit_fused  # needs Triton

        self._fused = dit_fused if all(dit_fused.fits(block) for block in self.blocks) else None
        return self

    @property
    def fused(self) -> bool:
        """Whether the blocks run with our own kernels."""
        return self._fused is not None

    def compile_blocks(self) -> FrameTransformer:
        """Compile each block when it is first called with a shape; all blocks share the code. Last of all changes."""
        for block in self.blocks:
            block.compile(fullgraph=True, dynamic=False)
        return self

    def context(self, embeds: Tensor, lengths: Tensor, total: int = TEXT_TOKENS) -> Context:
        """The keys and values that a batch of prompts gives every block.

        embeds: [batch, length, text_dim], text encoder outputs, zero past each row's own length.
        lengths: [batch], int64, real tokens in each row; at most `length`.
        total: tokens that diffusers would pad to; `total - lengths` zero vectors are accounted for.
        """
        batch, length, _ = embeds.shape
        embed = self.condition_embedder.text_embedder
        embeds = embeds.to(self.dtype)
        padding = embed(embeds.new_zeros(1, 2, embeds.shape[-1])).expand(batch, -1, -1)
        states = torch.cat([embed(embeds), padding], dim=1)
        keys, values = zip(*(block.text_keys_values(states) for block in self.blocks), strict=True)
        return Context(torch.stack(keys), torch.stack(values), _text_bias(lengths, length, total, self.dtype))

    def modulation(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding of each row: [batch, dim] for the output and [batch, 6, dim] for the blocks.

        timestep: [batch], float, the noise level sigma times 1000.
        """
        embedder, rows = self.condition_embedder, len(timestep)
        waves = embedder.timesteps_proj(F.pad(timestep, (0, -rows % ROWS_OF_A_TILE)))
        embedding = embedder.time_embedder(waves.to(embedder.time_embedder.linear_1.weight.dtype)).to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(embedding)).unflatten(1, (6, -1))
        return embedding[:rows], modulation[:rows]

    def rotary(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary position embedding, [height * width, 1, head_dim / 2], fp32.

        height, width: in tokens.
        """
        key = (height, width, device)
        if key not in self._rotary_tables:
            self._rotary_tables[key] = self._rotary_table(height, width, device)
        return self._rotary_tables[key]

    @cudnn_first
    def forward(self, latents: Tensor, timestep: Tensor, context: Context) -> Tensor:
        """Velocity of a batch of one-frame latents.

        latents: [batch, channels, height, width], any float dtype.
        timestep: [batch], float: sigma times 1000, one a row.
        Returns the velocity, [batch, out_channels, height, width], in the model's dtype.
        """
        shared = self._shared(latents, timestep)
        hidden = self._patchify(latents.to(self.dtype))
        hidden = self._through(hidden, shared, context, range(len(self.blocks)))
        return self._velocity(hidden, shared)

    @cudnn_first
    def forward_recording(
        self, latents: Tensor, timestep: Tensor, context: Context, span: range
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, to the last bit, and what the blocks of `span` added together to the hidden states.

        Returns the velocity and the residual of the span, [batch, tokens, dim] in the model's dtype.
        """
        shared = self._shared(latents, timestep)
        hidden = self._patchify(latents.to(self.dtype))
        before = self._through(hidden, shared, context, range(span.start))
        after = self._through(before, shared, context, span)
        hidden = self._through(after, shared, context, range(span.stop, len(self.blocks)))
        return self._velocity(hidden, shared), (after.float() - before.float()).type_as(after)

    @cudnn_first
    def forward_reusing(
        self, latents: Tensor, timestep: Tensor, context: Context, span: range, residual: Tensor
    ) -> Tensor:
        """As `forward`, without the blocks of `span`, for which `residual` [batch, tokens, dim] is added."""
        shared = self._shared(latents, timestep)
        hidden = self._patchify(latents.to(self.dtype))
        hidden = self._through(hidden, shared, context, range(span.start))
        hidden = (hidden.float() + residual.float()).type_as(hidden)
        hidden = self._through(hidden, shared, context, range(span.stop, len(self.blocks)))
        return self._velocity(hidden, shared)

    def _shared(self, latents: Tensor, timestep: Tensor) -> _Shared:
        height, width = latents.shape[2] // self.patch[0], latents.shape[3] // self.patch[1]
        return _Shared(height, width, self.rotary(height, width, latents.device), *self.modulation(timestep))

    def _through(self, hidden: Tensor, shared: _Shared, context: Context, blocks: range) -> Tensor:
        if self._fused is not None:
            return self._fused.through(self.blocks, blocks, hidden, shared.modulation, shared.rotary, context)
        for index in blocks:
            keys, values = context.keys[index], context.values[index]
            hidden = self.blocks[index](hidden, shared.modulation, shared.rotary, keys, values, context.bias)
        return hidden

    def _velocity(self, hidden: Tensor, shared: _Shared) -> Tensor:
        return self._unpatchify(self._output(hidden, shared.embedding), shared.height, shared.width)

    def _output(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + embedding.unsqueeze(1)).chunk(2, dim=1)
        if self._fused is not None:
            return self.proj_out(self._fused.normed_output(hidden, scale[:, 0], shift[:, 0], self.norm_out.eps))
        hidden = (self.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        return self.proj_out(hidden)

    def _patchify(self, latents: Tensor) -> Tensor:
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        patches = latents.unflatten(2, (-1, self.patch[0])).unflatten(4, (-1, self.patch[1]))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, weight.flatten(1), bias)

    def _unpatchify(self, patches: Tensor, height: int, width: int) -> Tensor:
        patches = patches.unflatten(1, (height, width)).unflatten(3, (*self.patch, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    def _rotary_table(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        frame = torch.empty(1, 1, 1, height * self.patch[0], width * self.patch[1], device="meta")
        cosines, sines = self.rope.to(device)(frame)
        return cosines[0, :, :, 0::2].contiguous(), sines[0, :, :, 1::2].contiguous()


class FrameBlock(nn.Module):
    """One transformer block: self-attention, attention to the text, feed-forward."""

    norm1: Any
    norm2: Any
    norm3: Any
    attn1: Any
    attn2: Any
    ffn: Any
    scale_shift_table: Any
    qkv_weight: Tensor | None
    qkv_bias: Tensor | None

    def __init__(self, block: Any):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.attn1, self.attn2, self.ffn = block.attn1, block.attn2, block.ffn
        self.scale_shift_table = block.scale_shift_table
        self.heads = block.attn1.heads
        self.qkv: nn.Module | None = None  # instead of the weights, if they are replaced
        self.register_buffer("qkv_weight", None, persistent=False)
        self.register_buffer("qkv_bias", None, persistent=False)

    @torch.no_grad()
    def fuse(self) -> None:
        self.qkv_weight, self.qkv_bias = _concatenated((self.attn1.to_q, self.attn1.to_k, self.attn1.to_v))
        self._share_fused()

    def _share_fused(self) -> None:
        """Make the weights of query, key and value views of the fused ones."""
        if self.qkv_weight is None or self.qkv_bias is None:
            return
        parts = (self.attn1.to_q, self.attn1.to_k, self.attn1.to_v)
        weights, biases = self.qkv_weight.chunk(3), self.qkv_bias.chunk(3)
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            part.weight.data, part.bias.data = weight, bias

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)  # moves views and what they are views of one by one
        self._share_fused()
        return self

    def text_keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, [batch, heads, length, head_dim], of projected text states [batch, length, dim]."""
        attention = self.attn2
        keys = attention.norm_k(attention.to_k(states))
        return self._split(keys).transpose(1, 2), self._split(attention.to_v(states)).transpose(1, 2)

    def forward(
        self,
        hidden: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        text_keys: Tensor,
        text_values: Tensor,
        text_bias: Tensor,
    ) -> Tensor:
        """hidden: [batch, tokens, dim] -> the same. modulation: [batch, 6, dim]."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + modulation.float()).chunk(
            6, dim=1
        )

        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        hidden = (hidden.float() + self._attend_self(normed, rotary) * gate).type_as(hidden)

        normed = self.norm2(hidden.float()).type_as(hidden)
        hidden = hidden + self._attend_text(normed, text_keys, text_values, text_bias)

        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        return (hidden.float() + self.ffn(normed).float() * ffn_gate).type_as(hidden)

    def _attend_self(self, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        attention = self.attn1
        query, key, value = self._query_key_value(hidden).chunk(3, dim=-1)
        query = _rotate(self._split(attention.norm_q(query)), rotary).transpose(1, 2)
        key = _rotate(self._split(attention.norm_k(key)), rotary).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, self._split(value).transpose(1, 2))
        return attention.to_out[0](attended.transpose(1, 2).flatten(2))

    def _query_key_value(self, hidden: Tensor) -> Tensor:
        if self.qkv is not None:
            return self.qkv(hidden)
        if self.qkv_weight is not None:
            return F.linear(hidden, self.qkv_weight, self.qkv_bias)
        return F.linear(hidden, *_concatenated((self.attn1.to_q, self.attn1.to_k, self.attn1.to_v)))

    def _attend_text(self, hidden: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        attention = self.attn2
        query = self._split(attention.norm_q(attention.to_q(hidden))).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return attention.to_out[0](attended.transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.heads, -1))


def _concatenated(linears: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    return torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])


def _rotate(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of [batch, tokens, heads, head_dim] with interleaved pairs, computed in fp32."""
    cosines, sines = rotary
    first, second = states.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([first * cosines - second * sines, first * sines + second * cosines], dim=-1)
    return rotated.flatten(-2).type_as(states)


def _text_bias(lengths: Tensor, length: int, total: int, dtype: torch.dtype) -> Tensor:
    """Score biases, [batch, 1, 1, length + 2]: real tokens, empty places, and two places for the padding.

    The padding's logarithm is split over two equal keys because bf16 holds ln(500) only to 0.02, which would
    weigh the padding 2 % wrong: the first key takes the rounded-down logarithm, the second what is left.
    """
    places = torch.arange(length, device=lengths.device)
    tokens = torch.zeros(len(lengths), length, device=lengths.device)
    tokens.masked_fill_(places >= lengths[:, None], -math.inf)
    padding = (total - lengths).double()
    step = torch.finfo(dtype).eps * 4  # ln(512) < 8, where the dtype's spacing is at most 4 eps
    first = (padding.log() / step).floor() * step
    rest = (padding - first.exp()).clamp(min=0).log()
    bias = torch.cat([tokens, first[:, None].float(), rest[:, None].float()], dim=1)
    return bias.to(dtype)[:, None, None, :]
