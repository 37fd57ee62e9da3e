"""Between pictures and latents: tensors of pictures, noise, blending, and the mixture that denoising starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.core.device import to_device


def to_model(pixels: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [height, width, 3] -> float32 [1, 3, height, width] in [-1, 1]; moved as bytes, computed there."""
    return to_device(pixels.copy(), torch.device(device)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_bytes(image: Tensor) -> Tensor:
    """Float [3, height, width] in [-1, 1] -> uint8 [height, width, 3], rounded as diffusers does, where it is."""
    image = ((image.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous()


def to_pixels(image: Tensor) -> np.ndarray:
    """The same on the host."""
    return to_bytes(image).cpu().numpy()


def initial_noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """The noise of a row, float32 [channels, height, width], drawn on the CPU from its own seed.

    The same values as diffusers draws for one frame with `torch.Generator("cpu").manual_seed(seed)`.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, channels, 1, height, width), generator=generator)[0, :, 0]


def step_noise(seed: int, step: int, shape: Sequence[int]) -> Tensor:
    """The noise that a stochastic solver adds to a row at one step, float32 [channels, height, width].

    Drawn on the CPU and fixed by the row's seed and the step alone; independent of the initial noise.
    """
    digest = hashlib.blake2b(f"{seed}\0{step}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest) >> 1)
    return torch.randn(tuple(shape), generator=generator)


def blend(latents: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of normalised latents of one shape; the weights are normalised to a sum of 1."""
    total = sum(weights)
    mixed = torch.zeros_like(latents[0])
    for latent, weight in zip(latents, weights, strict=True):
        mixed = mixed + latent * (weight / total)
    return mixed


def start(noise: Tensor, latent: Tensor | None, creativity: float) -> Tensor:
    """What denoising starts from: `(1 - c) * latent + c * noise`, flow matching's own mixture at noise level c."""
    if latent is None:
        return noise
    return (1 - creativity) * latent + creativity * noise
