"""The 2D layers that Wan's video autoencoder consists of when it sees a single frame.

Shapes are `[B, C, H, W]`. Parameters have the names of the video model's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_SCORES = 1 << 26  # that are written out at once, 4 bytes each: 256 MB


class RMSNorm(nn.Module):
    """Normalises each pixel's channels to unit mean square, `[B, C, H, W]`; computed in fp32."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.shape[1] ** 0.5) * self.gamma
        return F.normalize(x.float(), dim=1).to(x.dtype) * scale.to(x.dtype)[:, None, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, `[B, inner, H, W] -> [B, outer, H, W]`."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.norm1 = RMSNorm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = RMSNorm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + self.conv_shortcut(x)


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, one head, `[B, C, H, W]`.

    Attributes:
        writes_scores: Whether scores may be written out, in float32. On a GPU in half precision that is four times as
            fast as the one fused kernel that takes a head as wide as this, and as accurate. Exported graphs have the
            fused kernel all the same: AOTInductor has no C function for a batched product with a float32 result
            (`bmm.dtype`: PyTorch 2.13 writes a call of `aoti_torch_cuda__bmm_out_dtype_cuda`, and has none).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.writes_scores = False
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attended(*self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1))
        return self.proj(mixed.transpose(1, 2).reshape(x.shape)) + x

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one head, `[B, pixels, C]` each; perhaps as two products with float32 scores between them."""
        written = self.writes_scores and not torch.compiler.is_exporting()
        if not written or query.shape[0] * query.shape[1] ** 2 > MOST_SCORES:
            return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        scores = torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32) * query.shape[2] ** -0.5
        return torch.bmm(scores.softmax(2).to(value.dtype), value)


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.attentions = nn.ModuleList([AttentionBlock(channels)])
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels), ResidualBlock(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample(nn.Module):
    """Halves height and width, `[B, C, 2h, 2w] -> [B, C, h, w]`."""

    def __init__(self, channels: int):
        super().__init__()
        convolution = nn.Conv2d(channels, channels, 3, stride=2)
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


class Upsample(nn.Module):
    """Doubles height and width, `[B, inner, h, w] -> [B, outer, 2h, 2w]`."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        convolution = nn.Conv2d(inner, outer, 3, padding=1)
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest-exact"), convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


class FusedUpsample(nn.Module):
    """An `Upsample` that never makes the doubled image: `[B, inner, h, w] -> [B, outer, 2h, 2w]`, channels last.

    Of the doubled image a 3x3 kernel sees four pixels, each once, twice or four times. So each of the four pixels
    that a small pixel becomes is a 2x2 convolution of the small image, with sums of the kernel's taps: 16
    multiplications where there were 36. One convolution with four times the channels makes them all.
    """

    def __init__(self, upsample: Upsample):
        super().__init__()
        whole: Any = upsample.resample[1]
        wide = whole.weight.double()
        taps = wide.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        weight = torch.einsum("pty,qsx,oiyx->pqoits", taps, taps, wide).flatten(0, 2)
        convolution = nn.Conv2d(whole.in_channels, 4 * whole.out_channels, 2, padding=1, device="meta")
        convolution.weight = nn.Parameter(weight.to(whole.weight.dtype))
        convolution.bias = nn.Parameter(whole.bias.repeat(4))
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        phases = self.convolution(x).permute(0, 2, 3, 1).unflatten(3, (4, -1)).unbind(3)
        rows = [
            torch.stack([phases[2 * i + j][:, i : i + height, j : j + width] for j in (0, 1)], dim=3) for i in (0, 1)
        ]
        return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class AverageDown(nn.Module):
    """The shortcut beside a down block, `[B, inner, s*h, s*w] -> [B, outer, h, w]`.

    Space folds into channels, channels are averaged. The frame is the last of a group of `time`; the earlier
    ones of the group are the zeros that the video model pads in front.
    """

    def __init__(self, inner: int, outer: int, time: int, space: int):
        super().__init__()
        self.outer, self.time, self.space = outer, time, space
        self.group = inner * time * space * space // outer

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        folded = F.pixel_unshuffle(x, self.space)
        height, width = folded.shape[2:]
        folded = folded.reshape(batch, channels, 1, self.space**2, height, width)
        folded = F.pad(folded, (0, 0, 0, 0, 0, 0, self.time - 1, 0))
        return folded.reshape(batch, self.outer, self.group, height, width).mean(dim=2)


class DuplicateUp(nn.Module):
    """The shortcut beside an up block, `[B, inner, h, w] -> [B, outer, 2h, 2w]`.

    Gathers channels and shuffles them into pixels. The video model repeats channels, unfolds them into `time`
    frames of 2x2 pixels and drops all but the last frame of the first chunk; `source` is where each kept value
    came from.
    """

    source: Tensor

    def __init__(self, inner: int, outer: int, time: int):
        super().__init__()
        unfolded = torch.arange(outer * time * 4, device="cpu") // (outer * time * 4 // inner)
        source = unfolded.reshape(outer, time, 4)[:, -1].reshape(-1)
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x.index_select(1, self.source), 2)


class ResidualDown(nn.Module):
    """A down block of Wan2.2: residual blocks and a downsampler beside an averaging shortcut."""

    def __init__(self, inner: int, outer: int, blocks: int, time: int, halve: bool):
        super().__init__()
        widths = [inner, *[outer] * blocks]
        self.avg_shortcut = AverageDown(inner, outer, time, 2 if halve else 1)
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.downsampler = Downsample(outer) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for block in self.resnets:
            hidden = block(hidden)
        return self.downsampler(hidden) + self.avg_shortcut(x)


class ResidualUp(nn.Module):
    """An up block of Wan2.2: residual blocks and upsampler beside a shortcut (the last has neither)."""

    def __init__(self, inner: int, outer: int, blocks: int, time: int, double: bool):
        super().__init__()
        widths = [inner, *[outer] * (blocks + 1)]
        self.avg_shortcut = DuplicateUp(inner, outer, time) if double else None
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.upsampler = Upsample(outer, outer) if double else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for block in self.resnets:
            hidden = block(hidden)
        hidden = self.upsampler(hidden)
        return hidden if self.avg_shortcut is None else hidden + self.avg_shortcut(x)


class PlainUp(nn.Module):
    """An up block of Wan2.1: residual blocks, then (not in the last) an upsampler that halves the channels."""

    def __init__(self, inner: int, outer: int, blocks: int, double: bool):
        super().__init__()
        widths = [inner, *[outer] * (blocks + 1)]
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.upsamplers = nn.ModuleList([Upsample(outer, outer // 2)] if double else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x
