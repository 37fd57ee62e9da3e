"""How many rows to denoise together: a step is timed at several batch sizes, on the transformer alone.

Larger batches stop paying once the device is full, and cost memory and rows that wait for others; so the smallest one
that is nearly as fast as the best is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch

from wanbatch.pipeline.core.backends import AnyDenoisingModel
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.prompts import TEXT_LENGTHS, TEXT_TOKENS

CANDIDATES = (1, 2, 4, 8, 16)
TOLERANCE = 0.03  # of the best time a row, that a smaller batch may lose
REPEATS = 5


def best_slots(seconds: Mapping[int, float]) -> int:
    """The smallest batch size whose time a row is within `TOLERANCE` of the best.

    Args:
        seconds: Of a step and row, by batch size.

    Raises:
        ValueError: If there is none.
    """
    if not seconds:
        raise ValueError("no batch size was measured")
    limit = min(seconds.values()) * (1 + TOLERANCE)
    return min(slots for slots, one in seconds.items() if one <= limit)


@torch.inference_mode()
def measure(
    model: AnyDenoisingModel, device: torch.device, shape: tuple[int, int, bool], reserved: int
) -> dict[int, float]:
    """Seconds of a step and row at each batch size that fits.

    Args:
        model: The transformer as it will be run. Its weights may be random, because times do not depend on them.
        device: Where it is.
        shape: Height and width of the latents, guided or not.
        reserved: Bytes of the device that the other parts of the model will need.
    """
    found: dict[int, float] = {}
    for slots in CANDIDATES:
        try:
            seconds = _step_seconds(model, device, slots, shape)
        except torch.OutOfMemoryError:
            break
        if found and _too_large(device, reserved):
            break
        found[slots] = seconds
    return found


def _step_seconds(model: AnyDenoisingModel, device: torch.device, slots: int, shape: tuple[int, int, bool]) -> float:
    """Median, of a row's share."""
    height, width, guided = shape
    rows, length = slots * (2 if guided else 1), TEXT_LENGTHS[2]
    latents = torch.randn(rows, model.in_channels, height, width, device=device)
    timestep = torch.linspace(10, 990, rows, device=device)
    embeds = torch.randn(rows, length, model.text_dim, device=device)
    context = model.context(embeds, torch.full((rows,), length, device=device), TEXT_TOKENS)
    times = []
    for _ in range(2 + REPEATS):  # the first two compile and warm up
        begin = synchronized_time(device)
        model(latents, timestep, context)
        times.append(synchronized_time(device) - begin)
    return statistics.median(times[2:]) / slots


def _too_large(device: torch.device, reserved: int) -> bool:
    """Whether the last step, with the other parts beside it, would fill more than nine tenths of the device."""
    if device.type != "cuda":
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) + reserved > 0.9 * total
