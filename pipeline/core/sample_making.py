"""A request as the denoiser takes it: where the row starts, its steps and its text."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.creativity_map import region_of
from wanbatch.pipeline.core.device import to_device
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.core.samples import Region, RowAdapters, Sample
from wanbatch.pipeline.core.sound_tokens import with_sound
from wanbatch.pipeline.sampling.solvers import solve


def sample_of(
    request: Request,
    texts: tuple[Tensor, Tensor],
    mixed: Tensor | None,
    channels: int,
    stride: int,
    device: torch.device,
    adapters: RowAdapters | None,
) -> Sample:
    """The sample of a request.

    Args:
        request: What is asked for.
        texts: Embeddings [tokens, dim] of its prompt and of its negative prompt.
        mixed: Of its sources, float32 [channels, height / stride, width / stride]; None: it has none.
        channels: Of the latents.
        stride: Pixels of a place of the latent, across and down.
        device: Where the row is denoised.
        adapters: What changes the model for this row; None for nothing.
    """
    height, width = request.height // stride, request.width // stride
    noise = to_device(conditioning.initial_noise(request.seed, channels, height, width).numpy(), device)
    prompt, negative = texts
    if request.sound_tokens is not None:
        prompt = with_sound(prompt, request.sound_tokens)
    region, creativity = _region(request, mixed, noise, stride)
    return Sample(
        id=request.id,
        start=conditioning.start(noise, mixed, creativity),
        solution=solve(
            request.sampler,
            request.steps,
            request.shift,
            creativity,
            request.schedule,
            request.sigmas,
            request.creativity_steps,
        ),
        guidance=request.guidance,
        prompt=prompt,
        negative=negative,
        seed=request.seed,
        guidance_2=request.guidance_2,
        region=region,
        adapters=adapters,
    )


def _region(request: Request, mixed: Tensor | None, noise: Tensor, stride: int) -> tuple[Region | None, float]:
    """Where a row starts later than at its first noise level, and that level."""
    shown, creativity = request.creativity_map, request.creativity
    if shown is None:
        return None, creativity
    if mixed is None:
        raise ValueError("a creativity map needs a source")
    region, highest = region_of(shown.values, stride, mixed, noise, shown.softness)
    # The place that may change most may be smaller than one of the latent.
    return region, creativity if highest == np.float32(creativity) else highest
