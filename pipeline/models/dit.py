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

An evaluation may also leave out a span of blocks and add a predicted residual for it (`forward_reusing`). Blocks
can be compiled (`compile_blocks`) and their large layers replaced by FP8 ones (`to_float8`).

It does not know about guidance, schedules or batching; see `batching/denoiser.py` for those.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.errors import UserError
from wanbatch.pipeline.models import dit_plain
from wanbatch.pipeline.models.adapter_stacks import AdapterStacks
from wanbatch.pipeline.models.attention_choice import cudnn_first
from wanbatch.pipeline.models.block_products import PRODUCTS, TEXT_PRODUCTS
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.fp8 import float8_linear
from wanbatch.pipeline.models.int8 import int8_linear
from wanbatch.pipeline.models.slot_weights import SlotWeights
from wanbatch.pipeline.models.text_context import CrossAttentionContext, padding_bias

# On a CPU, equal rows of a matrix product of 5, 6, 7, 9, 10 or 11 rows differ in the last bit by their index.
ROWS_OF_A_TILE = 4


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

    Args:
        model: A diffusers `WanTransformer3DModel` for text (Wan2.1 T2V, Wan2.2 TI2V-5B, either expert of A14B).

    Raises:
        UserError: For a model with an image encoder or with a patch longer than a frame.
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
        self._merges_rows = self._compiled = False
        self._slot_weights: SlotWeights | None = None
        self._rotary_tables: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.scale_shift_table.shape[-1]

    @property
    def layers(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def text_dim(self) -> int:
        """Width of the text embeddings that `context` takes."""
        return self.condition_embedder.text_embedder.linear_1.in_features

    def fuse(self) -> FrameTransformer:
        """Lay each block's query, key and value weights in one matrix, of which they become views. For inference."""
        for block in self.blocks:
            block.fuse()
        return self

    def to_float8(self, device: torch.device | None = None) -> FrameTransformer:
        """Replace the large linear layers of each block by FP8 ones, and free their weights. `fuse` comes first.

        The text's keys and values, made once a row, stay as they are, and so does everything outside the blocks.

        Args:
            device: Where the model will run, and weights are rounded: a CPU rounds some of them otherwise than a GPU.
                None: where they are.

        Raises:
            UserError: For a model with layers of a size that cuBLAS cannot take.
            ValueError: If the model was not fused before.
        """
        for block in self.blocks:
            block.replace_linears(functools.partial(float8_linear, device=device))
        return self

    def to_int8(self, device: torch.device | None = None, compiled: bool = False) -> FrameTransformer:
        """As `to_float8`, in INT8.

        Args:
            device: Where the model will run, and weights are rounded. None: where they are.
            compiled: Whether the passes around the products are compiled on a GPU.
        """
        for block in self.blocks:
            block.replace_linears(functools.partial(int8_linear, device=device, compiled=compiled))
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
        self._compiled = True
        return self

    def merge_rows(self) -> FrameTransformer:
        """Merge the adapters of rows into weights of each slot's own from now on, see `slot_weights.py`."""
        self._merges_rows = True
        return self

    def adapter_stacks(self, slots: int, rank: int, text: bool = False) -> AdapterStacks | SlotWeights:
        """Empty stacks for the adapters of the rows of a batch; or the weights of its slots, which all batches share.

        Args:
            slots: How many rows they hold.
            rank: Of the adapters of one row together, at most.
            text: Those that `context` takes, for the texts' keys and values; else those of the evaluations.
        """
        if self._merges_rows and not text:
            return self._weights_of_slots(slots)
        inner, device = self.blocks[0].ffn.net[0].proj.weight.shape[0], self.proj_out.weight.device
        shapes = {"ffn.net.0.proj": (inner, self.dim), "ffn.net.2": (self.dim, inner)}
        products = TEXT_PRODUCTS if text else PRODUCTS
        square = (self.dim, self.dim)
        dtype = torch.float32 if self._merges_rows else self.dtype
        return AdapterStacks(
            self.layers,
            products,
            lambda name: shapes.get(name, square),
            slots,
            rank,
            dtype,
            device,
            self._merges_rows,
        )

    def _weights_of_slots(self, slots: int) -> SlotWeights:
        if self._slot_weights is None or self._slot_weights.slots != slots:
            self._slot_weights = None  # its memory is needed
            self._slot_weights = SlotWeights(self.blocks, slots, self._compiled)
        return self._slot_weights

    def context(
        self, embeds: Tensor, lengths: Tensor, padded_length: int, adapters: AdapterStacks | None = None
    ) -> CrossAttentionContext:
        """The keys and values that a batch of prompts gives every block.

        Args:
            embeds: [batch, length, text_dim], text encoder outputs, zero past each row's own length.
            lengths: [batch], int64, tokens of each prompt; at most `length`.
            padded_length: Tokens that diffusers would pad to; `padded_length - lengths` zero vectors are accounted
                for.
            adapters: Of the prompts, one a slot; None for none.
        """
        batch, length, _ = embeds.shape
        embed = self.condition_embedder.text_embedder
        embeds = embeds.to(self.dtype)
        padding = embed(embeds.new_zeros(1, 2, embeds.shape[-1])).expand(batch, -1, -1)
        states = torch.cat([embed(embeds), padding], dim=1)
        stacks = [None] * self.layers if adapters is None else adapters.blocks
        made = (block.text_keys_values(states, own) for block, own in zip(self.blocks, stacks, strict=True))
        keys, values = zip(*made, strict=True)
        bias = padding_bias(lengths, length, padded_length, self.dtype)
        return CrossAttentionContext(torch.stack(keys), torch.stack(values), bias)

    def modulation(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The time embedding of each row.

        Args:
            timestep: [batch], float, the noise level sigma times 1000.

        Returns:
            [batch, dim] for the output and [batch, 6, dim] for the blocks.
        """
        embedder, rows = self.condition_embedder, len(timestep)
        waves = embedder.timesteps_proj(F.pad(timestep, (0, -rows % ROWS_OF_A_TILE)))
        embedding = embedder.time_embedder(waves.to(embedder.time_embedder.linear_1.weight.dtype)).to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(embedding)).unflatten(1, (6, -1))
        return embedding[:rows], modulation[:rows]

    def rotary(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary position embedding, [height * width, 1, head_dim / 2], fp32.

        Args:
            height: In tokens.
            width: In tokens.
            device: Where they are made and kept.
        """
        key = (height, width, device)
        if key not in self._rotary_tables:
            self._rotary_tables[key] = self._rotary_table(height, width, device)
        return self._rotary_tables[key]

    @cudnn_first
    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        context: CrossAttentionContext,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The velocity that the model predicts for a batch of one-frame latents.

        Args:
            latents: [batch, channels, height, width], any float dtype.
            timestep: [batch], float: the noise level sigma times 1000.
            context: Of the batch's prompts.
            rotary: What `rotary` gives for the size, if the caller keeps it; None: it is looked up here.

        Returns:
            [batch, out_channels, height, width], in the model's dtype.
        """
        shared = self._shared(latents, timestep, rotary)
        hidden = self._patchify(latents.to(self.dtype))
        hidden = self._through(hidden, shared, context, range(len(self.blocks)))
        return self._velocity(hidden, shared)

    @cudnn_first
    def forward_recording(
        self, latents: Tensor, timestep: Tensor, context: CrossAttentionContext, span: range
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, to the last bit, and what the blocks of `span` added together to the hidden states.

        Returns:
            The velocity and the residual of the span, [batch, tokens, dim] in the model's dtype.
        """
        shared = self._shared(latents, timestep)
        hidden = self._patchify(latents.to(self.dtype))
        before = self._through(hidden, shared, context, range(span.start))
        after = self._through(before, shared, context, span)
        hidden = self._through(after, shared, context, range(span.stop, len(self.blocks)))
        return self._velocity(hidden, shared), (after.float() - before.float()).type_as(after)

    @cudnn_first
    def forward_reusing(
        self, latents: Tensor, timestep: Tensor, context: CrossAttentionContext, span: range, residual: Tensor
    ) -> Tensor:
        """As `forward`, without the blocks of `span`, for which `residual` [batch, tokens, dim] is added."""
        shared = self._shared(latents, timestep)
        hidden = self._patchify(latents.to(self.dtype))
        hidden = self._through(hidden, shared, context, range(span.start))
        hidden = (hidden.float() + residual.float()).type_as(hidden)
        hidden = self._through(hidden, shared, context, range(span.stop, len(self.blocks)))
        return self._velocity(hidden, shared)

    def _shared(self, latents: Tensor, timestep: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> _Shared:
        height, width = latents.shape[2] // self.patch[0], latents.shape[3] // self.patch[1]
        tables = rotary or self.rotary(height, width, latents.device)
        return _Shared(height, width, tables, *self.modulation(timestep))

    def _through(self, hidden: Tensor, shared: _Shared, context: CrossAttentionContext, blocks: range) -> Tensor:
        through = dit_plain.through if self._fused is None else self._fused.through
        own, modulation, rotary = context.adapters, shared.modulation, shared.rotary
        if not isinstance(own, SlotWeights):
            return through(self.blocks, blocks, hidden, modulation, rotary, context)
        context = replace(context, adapters=None)
        return own.apart(through(own.blocks, blocks, own.beside(hidden), own.beside(modulation), rotary, context))

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
