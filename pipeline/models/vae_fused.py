"""The single-frame VAE on a GPU: the vendor's convolutions and products, and `kernels.pixels` for all in between.

The same arithmetic as `FrameVAE`, with fewer roundings. Nothing is compiled, so a size costs nothing before it is
first used. What a convolution's result is added to is added by the kernel that reads it next: `Pending` carries it
from layer to layer. Pictures are [batch, height, width, channels]. Needs Triton (`own_kernels.kernels_usable`).
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models.kernels.pixels import Averaged, Pending, Repeated, add_norm_pixels, add_up
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.models.vae_blocks import (
    AttentionBlock,
    AverageDown,
    Downsample,
    FusedUpsample,
    MidBlock,
    PlainUp,
    ResidualBlock,
    ResidualDown,
    ResidualUp,
)


class FusedVAE:
    """A `FrameVAE` by kernels, in place of it: for inference, with the same weights, wherever they are."""

    def __init__(self, vae: FrameVAE):
        """Take a VAE over.

        Args:
            vae: With its upsampling fused (`FrameVAE.fuse_upsample`), channels last on a GPU.
        """
        self._vae = vae

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """As `FrameVAE.encode`: [batch, 3, height, width] -> [batch, z, height / stride, width / stride]."""
        vae, encoder = self._vae, self._vae.encoder
        x = patched(images.to(vae.quant_conv.weight.dtype), vae.patch)
        hidden = Pending(_convolved(x, encoder.conv_in), encoder.conv_in.bias)
        hidden = _mid(encoder.mid_block, reduce(_down, encoder.down_blocks, hidden))
        moments = _out(encoder, hidden).permute(0, 3, 1, 2)
        return vae.normalised(vae.quant_conv(moments).chunk(2, dim=1)[0])

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """As `FrameVAE.decode`: [batch, z, height, width] -> [batch, 3, height * stride, width * stride]."""
        vae, decoder = self._vae, self._vae.decoder
        x = vae.post_quant_conv(vae.restored(latents).to(vae.post_quant_conv.weight.dtype))
        hidden = Pending(_convolved(x.permute(0, 2, 3, 1), decoder.conv_in), decoder.conv_in.bias)
        hidden = reduce(_up, decoder.up_blocks, _mid(decoder.mid_block, hidden))
        return unpatched(_out(decoder, hidden), vae.patch).clamp(-1.0, 1.0)


def patched(images: Tensor, size: int) -> Tensor:
    """[batch, channels, height, width] -> [batch, height / size, width / size, channels * size * size]."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // size, size, width // size, size).permute(0, 2, 4, 1, 5, 3)
    return x.reshape(batch, height // size, width // size, channels * size * size)


def unpatched(x: Tensor, size: int) -> Tensor:
    """The inverse of `patched`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // size**2, size, size).permute(0, 3, 1, 5, 2, 4)
    return x.reshape(batch, channels // size**2, height * size, width * size)


def _convolved(x: Tensor, layer: nn.Conv2d | nn.Module, padding: int | None = None) -> Tensor:
    """A convolution without its bias, [batch, height, width, channels] -> the same of its result."""
    convolution: Any = layer
    out = F.conv2d(
        x.permute(0, 3, 1, 2),
        convolution.weight,
        stride=convolution.stride,
        padding=convolution.padding if padding is None else padding,
    )
    return out.permute(0, 2, 3, 1).contiguous()


def _residual(block: Any, pending: Pending) -> tuple[Tensor, Pending]:
    """What a `ResidualBlock` was given, added up, and what it makes of it."""
    x, normed = add_norm_pixels(pending, block.norm1.gamma)
    assert x is not None
    first = Pending(_convolved(normed, block.conv1), block.conv1.bias)
    _, normed = add_norm_pixels(first, block.norm2.gamma, keep=False)
    hidden, shortcut = _convolved(normed, block.conv2), block.conv_shortcut
    if isinstance(shortcut, nn.Conv2d):
        return x, Pending(hidden, block.conv2.bias, F.linear(x, shortcut.weight.flatten(1), shortcut.bias))
    return x, Pending(hidden, block.conv2.bias, x)


def _attention(block: AttentionBlock, pending: Pending) -> Pending:
    x, normed = add_norm_pixels(pending, block.norm.gamma, silu=False)
    assert x is not None
    states = F.linear(normed.flatten(1, 2), block.to_qkv.weight.flatten(1), block.to_qkv.bias)
    mixed = block.attended(*states.chunk(3, dim=-1))
    return Pending(F.linear(mixed, block.proj.weight.flatten(1)).view(x.shape), block.proj.bias, x)


def _mid(block: MidBlock, pending: Pending) -> Pending:
    _, pending = _residual(block.resnets[0], pending)
    _, pending = _residual(block.resnets[1], _attention(block.attentions[0], pending))  # type: ignore[arg-type]
    return pending


def _down(pending: Pending, layer: nn.Module) -> Pending:
    """One layer of an encoder's way down."""
    if isinstance(layer, ResidualBlock):
        return _residual(layer, pending)[1]
    if isinstance(layer, Downsample):
        return _halved(layer, pending)
    assert isinstance(layer, ResidualDown)
    first, *others = layer.resnets
    x, hidden = _residual(first, pending)
    for block in others:
        _, hidden = _residual(block, hidden)
    if isinstance(layer.downsampler, Downsample):
        hidden = _halved(layer.downsampler, hidden)
        return Pending(hidden.values, hidden.bias, _average(layer.avg_shortcut, x))
    return Pending(add_up(hidden), None, _average(layer.avg_shortcut, x))


def _halved(layer: Downsample, pending: Pending) -> Pending:
    convolution = layer.resample[1]
    return Pending(_convolved(add_up(pending, padded=True), convolution), convolution.bias)  # type: ignore[arg-type]


def _average(shortcut: AverageDown, x: Tensor) -> Averaged:
    return Averaged(x, shortcut.space, shortcut.time, shortcut.group)


def _up(pending: Pending, layer: nn.Module) -> Pending:
    """One block of a decoder's way up."""
    assert isinstance(layer, (ResidualUp, PlainUp))
    first, *others = layer.resnets
    x, hidden = _residual(first, pending)
    for block in others:
        _, hidden = _residual(block, hidden)
    if isinstance(layer, PlainUp):
        return reduce(lambda pending, upsampler: _doubled(upsampler, pending), layer.upsamplers, hidden)
    if layer.avg_shortcut is None:
        return hidden
    return _doubled(layer.upsampler, hidden, Repeated(x, layer.avg_shortcut.source))


def _doubled(upsampler: nn.Module, pending: Pending, shortcut: Repeated | None = None) -> Pending:
    assert isinstance(upsampler, FusedUpsample)
    convolution = upsampler.convolution
    return Pending(_convolved(add_up(pending), convolution), convolution.bias, shortcut, doubled=True)


def _out(part: Any, pending: Pending) -> Tensor:
    """The end of an encoder or a decoder: norm and convolution, [batch, height, width, channels]."""
    _, normed = add_norm_pixels(pending, part.norm_out.gamma, keep=False)
    return _convolved(normed, part.conv_out) + part.conv_out.bias
