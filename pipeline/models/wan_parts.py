"""The modules that `FrameTransformer` is made of, without diffusers, which takes seconds to import.

Names of parameters are those of diffusers' `WanTransformer3DModel`, so a model's files fill them by name, and so do
adapters. There is no forward pass of the whole here: one frame's is `FrameTransformer`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULTS: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "rope_max_seq_len": 1024,
}
"""What a configuration that lacks a field means."""

KEPT_IN_FLOAT32 = frozenset({"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})
"""Parts of the names of parameters that stay in float32, whatever the rest is in."""

LONGEST_PERIOD = 10000  # of the waves of a noise level
ROTARY_BASE = 10000.0


def dtype_of_parameter(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a parameter of a transformer is in, by its name, if the transformer as a whole is in `dtype`."""
    return dtype if KEPT_IN_FLOAT32.isdisjoint(name.split(".")) else torch.float32


class WanParts(nn.Module):
    """The parts of a Wan transformer for text.

    Args:
        config: Fields of the model's `config.json`.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.config = c = SimpleNamespace(
            **DEFAULTS | {name: config[name] for name in DEFAULTS.keys() & config.keys()}
        )
        dim = c.num_attention_heads * c.attention_head_dim
        outputs = (c.out_channels or c.in_channels) * math.prod(c.patch_size)
        self.rope = RotaryTables(c.attention_head_dim, tuple(c.patch_size), c.rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(c.in_channels, dim, kernel_size=c.patch_size, stride=c.patch_size)
        self.condition_embedder = _ConditionEmbedder(dim, c.freq_dim, c.text_dim)
        self.blocks = nn.ModuleList(
            _Block(dim, c.ffn_dim, c.num_attention_heads, c.cross_attn_norm, c.eps) for _ in range(c.num_layers)
        )
        self.norm_out = Float32LayerNorm(dim, c.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, outputs)
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, dim))


class Float32LayerNorm(nn.LayerNorm):
    """A layer norm that computes in float32 and returns what it was given."""

    def forward(self, states: Tensor) -> Tensor:
        """[..., dim] -> the same in shape and dtype."""
        weight, bias = (None if one is None else one.float() for one in (self.weight, self.bias))
        return F.layer_norm(states.float(), self.normalized_shape, weight, bias, self.eps).to(states.dtype)


class RotaryTables(nn.Module):
    """Cosines and sines of the rotary position embedding over frames, rows and columns.

    Args:
        head_dim: Of attention; a third each goes to rows and columns, rounded down, and the rest to frames.
        patch: Frames, rows and columns of a token.
        length: Positions in each direction.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_dim: int, patch: tuple[int, int, int], length: int):
        super().__init__()
        side = 2 * (head_dim // 6)
        self.sizes, self.patch = (head_dim - 2 * side, side, side), patch
        cosines, sines = zip(*(_waves(size, length) for size in self.sizes), strict=True)
        self.register_buffer("freqs_cos", torch.cat(cosines, dim=1), persistent=False)
        self.register_buffer("freqs_sin", torch.cat(sines, dim=1), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [batch, channels, frames, height, width] -> [1, tokens, 1, head_dim] each, float32."""
        counts = [size // step for size, step in zip(latents.shape[2:], self.patch, strict=True)]
        return self._spread(self.freqs_cos, counts), self._spread(self.freqs_sin, counts)

    def _spread(self, table: Tensor, counts: list[int]) -> Tensor:
        parts = []
        for axis, part in enumerate(table.split(self.sizes, dim=1)):
            shape = [1, 1, 1, -1]
            shape[axis] = counts[axis]
            parts.append(part[: counts[axis]].view(shape).expand(*counts, -1))
        return torch.cat(parts, dim=-1).reshape(1, math.prod(counts), 1, -1)


def _waves(size: int, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, size], each number twice, computed in float64; on the CPU wherever modules are."""
    with torch.device("cpu"):
        frequencies = 1.0 / (ROTARY_BASE ** (torch.arange(0, size, 2, dtype=torch.float64) / size))
        angles = torch.outer(torch.arange(length), frequencies)
        return angles.cos().repeat_interleave(2, dim=1).float(), angles.sin().repeat_interleave(2, dim=1).float()


class _ConditionEmbedder(nn.Module):
    def __init__(self, dim: int, waves: int, text_dim: int):
        super().__init__()
        self.timesteps_proj = TimestepWaves(waves)
        self.time_embedder = _TwoLinears(waves, dim, nn.SiLU())
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = _TwoLinears(text_dim, dim, nn.GELU(approximate="tanh"))


class TimestepWaves(nn.Module):
    """Timesteps as cosines and sines of `size // 2` frequencies."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, timesteps: Tensor) -> Tensor:
        """[batch] -> float32 [batch, size]."""
        half = self.size // 2
        exponents = -math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angles = timesteps[:, None].float() * torch.exp(exponents / half)[None, :]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        return F.pad(waves, (0, 1)) if self.size % 2 else waves


class _TwoLinears(nn.Module):
    def __init__(self, inputs: int, dim: int, activation: nn.Module):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, dim)
        self.activation = activation
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """[..., inputs] -> [..., dim]."""
        return self.linear_2(self.activation(self.linear_1(states)))


class _Block(nn.Module):
    def __init__(self, dim: int, inner: int, heads: int, text_norm: bool, eps: float):
        super().__init__()
        self.norm1 = Float32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = _Attention(dim, heads, eps)
        self.attn2 = _Attention(dim, heads, eps)
        self.norm2 = Float32LayerNorm(dim, eps) if text_norm else nn.Identity()
        self.ffn = _FeedForward(dim, inner)
        self.norm3 = Float32LayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.empty(1, 6, dim))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=eps), nn.RMSNorm(dim, eps=eps)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.net = nn.ModuleList([_ProjectedGelu(dim, inner), nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, states: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.net[2](self.net[0](states))


class _ProjectedGelu(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, states: Tensor) -> Tensor:
        """[..., dim] -> [..., inner]."""
        return F.gelu(self.proj(states), approximate="tanh")
