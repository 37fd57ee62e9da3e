"""Noise in which nothing is to be heard, for an adapter to learn that it has nothing to say of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wanbatch.pipeline.training.sound.distillation import NOTHING, Draw

SHARE = 0.12
"""Of a step's sounds that are noise alone."""


def noises(count: int, length: int, rate: int, generator: torch.Generator) -> Tensor:
    """Noise of random colours, half of it of a band alone, half of it swelling: float32 [count, length].

    Args:
        count: How many.
        length: Samples of each.
        rate: Samples a second.
        generator: Of everything random; they are made on its device.
    """
    device = generator.device

    def play(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, generator=generator, device=device) * (high - low) + low

    spectrum = torch.fft.rfft(torch.randn(count, length, generator=generator, device=device))
    hertz = torch.linspace(0, rate / 2, spectrum.shape[1], device=device)[None].clamp_min(20)
    colour = (hertz / 1000) ** play(-1.5, 0.5)  # from brown over white to blue
    low = 50 * (rate / 2 / 200) ** play(0, 1)
    band = (hertz >= low) & (hertz <= low * 4)
    banded = play(0, 1) < 0.5
    spectrum = spectrum * colour * torch.where(banded, band.float(), torch.ones_like(colour))
    sound = torch.fft.irfft(spectrum, n=length)
    time = torch.arange(length, device=device)[None] / rate
    swelling = torch.where(play(0, 1) < 0.5, play(0.2, 0.8), torch.zeros_like(play(0, 1)))
    sound = sound * (1 + swelling * torch.sin(2 * math.pi * (play(0.2, 1.5) * time + play(0, 1))))
    return sound / sound.abs().amax(1, keepdim=True).clamp_min(1e-9) * play(0.02, 0.9)


def with_noises(draw: Draw, rate: int, generator: torch.Generator, share: float = SHARE) -> Draw:
    """The same sounds, some of them replaced by noise that belongs to no caption.

    Args:
        draw: Of the sounds.
        rate: Samples a second of these.
        generator: Of the noise and of which sounds it replaces.
        share: Of the sounds that are replaced, one at least and never all.
    """

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        sounds, captions = draw(count)
        replaced = min(max(1, round(share * count)), count - 1)
        if replaced:
            made = noises(replaced, sounds.shape[1], rate, generator)
            sounds = torch.cat([sounds[replaced:], made])
            nothing = torch.full((replaced,), NOTHING, device=captions.device, dtype=captions.dtype)
            captions = torch.cat([captions[replaced:], nothing])
        return sounds, captions

    return drawn
