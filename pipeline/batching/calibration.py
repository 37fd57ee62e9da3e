"""How many rows to denoise together: a step is timed at several batch sizes, on the transformer alone.

The weights are random, because times do not depend on them. Larger batches stop paying once the device is full,
and cost memory and rows that wait for others; so the smallest one that is nearly as fast as the best is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from wanbatch.pipeline.batching.denoiser import TEXT_PLACES, now
from wanbatch.pipeline.generate import expert
from wanbatch.pipeline.loading.random_model import transformer_like
from wanbatch.pipeline.loading.runtime import Runtime, set_up_compiler
from wanbatch.pipeline.models.dit import FrameTransformer

CANDIDATES = (1, 2, 4, 8, 16)
TOLERANCE = 0.03  # of the best time a row, that a smaller batch may lose
REPEATS = 5


def best_slots(seconds: Mapping[int, float]) -> int:
    """The smallest batch whose time a row is within `TOLERANCE` of the best. seconds: batch -> of a step and row.

    Raises ValueError if there is none.
    """
    if not seconds:
        raise ValueError("no batch size was measured")
    limit = min(seconds.values()) * (1 + TOLERANCE)
    return min(slots for slots, one in seconds.items() if one <= limit)


@torch.inference_mode()
def measure(
    config: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    runtime: Runtime,
    shape: tuple[int, int, bool],
    reserved: int,
) -> dict[int, float]:
    """Seconds of a step and row at each batch size that fits.

    config: of a `WanTransformer3DModel`. shape: height and width of the latents, guided or not.
    reserved: bytes of the device that the other parts of the model will need.
    """
    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    frame = expert(transformer_like(config, device, dtype), runtime, device)
    found: dict[int, float] = {}
    for slots in CANDIDATES:
        try:
            seconds = _step_seconds(frame, device, slots, shape)
        except torch.OutOfMemoryError:
            break
        if found and _too_large(device, reserved):
            break
        found[slots] = seconds
    return found


def _step_seconds(frame: FrameTransformer, device: torch.device, slots: int, shape: tuple[int, int, bool]) -> float:
    """Median, of a row's share."""
    height, width, guided = shape
    rows, places = slots * (2 if guided else 1), TEXT_PLACES[2]
    dim = frame.condition_embedder.text_embedder.linear_1.in_features
    latents = torch.randn(rows, frame.in_channels, height, width, device=device)
    timestep = torch.linspace(10, 990, rows, device=device)
    embeds = torch.randn(rows, places, dim, device=device)
    context = frame.context(embeds, torch.full((rows,), places, device=device))
    times = []
    for _ in range(2 + REPEATS):  # the first two compile and warm up
        begin = now(device)
        frame(latents, timestep, context)
        times.append(now(device) - begin)
    return statistics.median(times[2:]) / slots


def _too_large(device: torch.device, reserved: int) -> bool:
    """Whether the last step, with the other parts beside it, would fill more than nine tenths of the device."""
    if device.type != "cuda":
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) + reserved > 0.9 * total
