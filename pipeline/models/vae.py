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

from wanbatch.pipeline.models.vae_blocks import (
    AttentionBlock,
    Downsample,
    FusedUpsample,
    MidBlock,
    PlainUp,
    ResidualBlock,
    ResidualDown,
    ResidualUp,
    RMSNorm,
    Upsample,
)


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
        self.config, self.patch = config, config.patch_size or 1
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
        frame.load_state_dict({name: live(video[name]).view(like.shape) for name, like in frame.state_dict().items()})
        frame.normalise_by(torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std))
        return frame.train(vae.training)

    @torch.no_grad()
    def fuse_upsample(self) -> FrameVAE:
        """Fuse each doubling with the convolution after it; for inference. Last of all changes to the weights."""
        for module in list(self.decoder.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Upsample):
                    setattr(module, name, FusedUpsample(child))
        return self.requires_grad_(False)

    def write_scores(self) -> FrameVAE:
        """Have attention written out, for inference in half precision on a GPU."""
        for module in self.modules():
            if isinstance(module, AttentionBlock):
                module.writes_scores = True
        return self

    @torch.no_grad()
    def store(self, vae: Any) -> None:
        """Writes weights and normalisation into an `AutoencoderKLWan`; what one frame does not use becomes zero."""
        frame = self.state_dict()
        for name, parameter in vae.state_dict().items():
            parameter.zero_()
            if name in frame:
                live(parameter).view(frame[name].shape).copy_(frame[name])
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

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Images, not clamped, of latents that are *not* normalised: what a reconstruction loss compares."""
        x = self.decoder(self.post_quant_conv(latents.to(self.post_quant_conv.weight.dtype)))
        batch, channels, height, width = x.shape
        size = self.patch
        x = x.reshape(batch, channels // size**2, size, size, height, width).permute(0, 1, 4, 3, 5, 2)
        return x.reshape(batch, channels // size**2, height * size, width * size)

    def encode(self, images: Tensor) -> Tensor:
        """The mode of the posterior, normalised: `[B, 3, H, W] -> [B, z, h, w]`."""
        return self.normalised(self.moments(images)[0])

    def decode(self, latents: Tensor) -> Tensor:
        """Images of normalised latents, clamped to [-1, 1]: `[B, z, h, w] -> [B, 3, H, W]`."""
        return self.decode_raw(self.restored(latents)).clamp(-1.0, 1.0)

    def normalised(self, latents: Tensor) -> Tensor:
        """Latents as the denoiser has them, of those that the encoder makes: `[B, z, h, w]`, in their dtype."""
        return ((latents.float() - self.mean[:, None, None]) / self.std[:, None, None]).to(latents.dtype)

    def restored(self, latents: Tensor) -> Tensor:
        """The inverse of `normalised`, in fp32."""
        return latents.float() * self.std[:, None, None] + self.mean[:, None, None]


def live(video: Tensor) -> Tensor:
    """The view of a video parameter that acts on a single frame."""
    return video[:, :, -1] if video.ndim == 5 else video
