"""Wan's video autoencoder for one frame, as plain 2D layers.

`AutoencoderKLWan` is causal in time and starts from an empty past: for a single frame every temporal kernel
sees zeros but for its last tap, and the temporal resampling convolutions are skipped. What remains is a 2D
network. `FrameVAE` holds that network under the names of the video model's parameters, so weights go from one
to the other by name. Both forms are covered: Wan2.1 and Wan2.2 (`is_residual`, patchified images).

It does not tile, and it knows nothing of more than one frame.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    """Self-attention over the pixels, one head, `[B, C, H, W]`."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed[:, 0].transpose(1, 2).reshape(x.shape)) + x


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


class FoldedUpsample(nn.Module):
    """An `Upsample` that never makes the doubled image: `[B, inner, h, w] -> [B, outer, 2h, 2w]`, channels last.

    Of the doubled image a 3x3 kernel sees four pixels, each once, twice or four times. So each of the four pixels
    that a small pixel becomes is a 2x2 convolution of the small image, with sums of the kernel's taps: 16
    multiplications where there were 36. One convolution with four times the channels makes them all.
    """

    def __init__(self, upsample: Upsample):
        super().__init__()
        whole: Any = upsample.resample[1]
        wide = whole.weight.double()
        folding = wide.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        weight = torch.einsum("pty,qsx,oiyx->pqoits", folding, folding, wide).flatten(0, 2)
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
        unfolded = torch.arange(outer * time * 4) // (outer * time * 4 // inner)
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


class Encoder(nn.Module):
    """Patchified image to moments, `[B, 3*p*p, H/p, W/p] -> [B, 2*z, h, w]`."""

    def __init__(self, config):
        super().__init__()
        dims = [config.base_dim * multiple for multiple in [1, *config.dim_mult]]
        last = len(config.dim_mult) - 1
        layers: list[nn.Module] = []
        for i, (inner, outer) in enumerate(pairwise(dims)):
            if config.is_residual:
                time = 2 if i != last and config.temperal_downsample[i] else 1
                layers.append(ResidualDown(inner, outer, config.num_res_blocks, time, i != last))
                continue
            widths = [inner, *[outer] * config.num_res_blocks]
            layers += [ResidualBlock(a, b) for a, b in pairwise(widths)]
            layers += [Downsample(outer)] if i != last else []
        self.conv_in = nn.Conv2d(config.in_channels, dims[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(layers)
        self.mid_block = MidBlock(dims[-1])
        self.norm_out = RMSNorm(dims[-1])
        self.conv_out = nn.Conv2d(dims[-1], config.z_dim * 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents to patchified image, `[B, z, h, w] -> [B, 3*p*p, H/p, W/p]`."""

    def __init__(self, config):
        super().__init__()
        multiples = config.dim_mult[::-1]
        dims = [(config.decoder_base_dim or config.base_dim) * m for m in [multiples[0], *multiples]]
        doubles_time = config.temperal_downsample[::-1]
        last = len(multiples) - 1
        layers: list[nn.Module] = []
        for i, (inner, outer) in enumerate(pairwise(dims)):
            if config.is_residual:
                time = 2 if i != last and doubles_time[i] else 1
                layers.append(ResidualUp(inner, outer, config.num_res_blocks, time, i != last))
            else:
                layers.append(PlainUp(inner // 2 if i else inner, outer, config.num_res_blocks, i != last))
        self.conv_in = nn.Conv2d(config.z_dim, dims[0], 3, padding=1)
        self.mid_block = MidBlock(dims[0])
        self.up_blocks = nn.ModuleList(layers)
        self.norm_out = RMSNorm(dims[-1])
        self.conv_out = nn.Conv2d(dims[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class FrameVAE(nn.Module):
    """The autoencoder for single frames.

    Images are float `[B, 3, H, W]` in [-1, 1], latents float `[B, z, H/stride, W/stride]`, normalised by the
    checkpoint's `latents_mean` and `latents_std` (what the denoiser works on). Both directions are free of
    data-dependent branches. In half precision the normalisation of latents stays in fp32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config):
        super().__init__()
        if config.attn_scales:
            raise ValueError(f"attn_scales={config.attn_scales}: attention between scales is not supported")
        self.patch = config.patch_size or 1
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.z_dim * 2, config.z_dim * 2, 1)
        self.post_quant_conv = nn.Conv2d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(config.z_dim), persistent=False)
        self.register_buffer("std", torch.ones(config.z_dim), persistent=False)
        self.normalise_by(torch.tensor(config.latents_mean), torch.tensor(config.latents_std))

    @classmethod
    def from_video(cls, vae: Any) -> FrameVAE:
        """The live part of a diffusers `AutoencoderKLWan`, copied: its dtype, its device."""
        frame = cls(vae.config).to(device=vae.device, dtype=vae.dtype)
        video = vae.state_dict()
        frame.load_state_dict({name: _live(video[name], like) for name, like in frame.state_dict().items()})
        frame.normalise_by(torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std))
        return frame.train(vae.training)

    @torch.no_grad()
    def fold(self) -> FrameVAE:
        """Fold doubling into the convolutions after it; for inference. Last of all changes to the weights."""
        for module in list(self.decoder.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Upsample):
                    setattr(module, name, FoldedUpsample(child))
        return self.requires_grad_(False)

    @torch.no_grad()
    def store(self, vae: Any) -> None:
        """Writes weights and normalisation into an `AutoencoderKLWan`; what one frame does not use becomes zero."""
        frame = self.state_dict()
        for name, parameter in vae.state_dict().items():
            parameter.zero_()
            if name in frame:
                live = _live(parameter, frame[name])
                live.copy_(frame[name])
        vae.register_to_config(latents_mean=self.mean.tolist(), latents_std=self.std.tolist())

    @torch.no_grad()
    def normalise_by(self, mean: Tensor, std: Tensor) -> None:
        """Sets the normalisation of latents: fp32 `[z]` each, kept in fp32 whatever the weights are."""
        self.mean, self.std = (value.to(self.mean.device, torch.float32) for value in (mean, std))

    def _apply(self, fn, recurse=True):
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        self.mean, self.std = mean.to(self.mean.device), std.to(self.std.device)
        return self

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior, both `[B, z, h, w]`, not normalised."""
        x = images.to(self.quant_conv.weight.dtype)
        batch, channels, height, width = x.shape
        size = self.patch
        x = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 1, 5, 3, 2, 4)
        x = x.reshape(batch, channels * size * size, height // size, width // size)
        mean, variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, variance.clamp(-30.0, 20.0)

    def paint(self, latents: Tensor) -> Tensor:
        """Images, not clamped, of latents that are *not* normalised: what a reconstruction loss compares."""
        x = self.decoder(self.post_quant_conv(latents.to(self.post_quant_conv.weight.dtype)))
        batch, channels, height, width = x.shape
        size = self.patch
        x = x.reshape(batch, channels // size**2, size, size, height, width).permute(0, 1, 4, 3, 5, 2)
        return x.reshape(batch, channels // size**2, height * size, width * size)

    def encode(self, images: Tensor) -> Tensor:
        """The mode of the posterior, normalised: `[B, 3, H, W] -> [B, z, h, w]`."""
        mode = self.moments(images)[0]
        return ((mode.float() - self.mean[:, None, None]) / self.std[:, None, None]).to(mode.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Images of normalised latents, clamped to [-1, 1]: `[B, z, h, w] -> [B, 3, H, W]`."""
        latents = latents.float() * self.std[:, None, None] + self.mean[:, None, None]
        return self.paint(latents).clamp(-1.0, 1.0)


def _live(video: Tensor, like: Tensor) -> Tensor:
    """The view of a video parameter that acts on a single frame, in the shape of its 2D counterpart."""
    return (video[:, :, -1] if video.ndim == 5 else video).view(like.shape)
