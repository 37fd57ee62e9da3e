"""How many rows to denoise together: steps of a batch are timed at several sizes, as a run makes them.

Larger batches stop paying once the device is full, and cost memory and rows that wait for others; so the smallest one
that is nearly as fast as the best is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch

from wanbatch.pipeline.batching.batch import Batch
from wanbatch.pipeline.batching.slots import Row
from wanbatch.pipeline.core.backends import AnyDenoisingModel
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.prompts import TEXT_LENGTHS
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.sampling.solvers import solve
from wanbatch.pipeline.sampling.step_cache import StepCache
from wanbatch.pipeline.sampling.step_plan import StepPlan

CANDIDATES = (1, 2, 4, 8, 16)
TOLERANCE = 0.03  # of the best time a row, that a smaller batch may lose
WARM_UP = 3  # steps: the first ones compile, and record what is replayed after them
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
    model: AnyDenoisingModel,
    device: torch.device,
    shape: tuple[int, int, bool],
    reserved: int,
    stationary: bool = True,
) -> dict[int, float]:
    """Seconds of a step and row at each batch size that fits: of all that a step is, replayed where a run replays it.

    Args:
        model: The transformer as it will be run. Its weights may be random, because times do not depend on them.
        device: Where it is.
        shape: Height and width of the latents, guided or not.
        reserved: Bytes of the device that the other parts of the model will need beside it.
        stationary: Whether the model will stay where it is in memory, so that its launches may be recorded.
    """
    found: dict[int, float] = {}
    for slots in CANDIDATES:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        try:
            seconds = _step_seconds(model, device, slots, shape, stationary)
        except torch.OutOfMemoryError:
            break
        if found and _too_large(device, reserved):
            break
        found[slots] = seconds
    return found


def _step_seconds(
    model: AnyDenoisingModel, device: torch.device, slots: int, shape: tuple[int, int, bool], stationary: bool
) -> float:
    """Median, of a row's share."""
    height, width, guided = shape
    solution = solve("euler", WARM_UP + REPEATS, 1.0, 1.0, "linear", None)
    prompt, negative = (torch.randn(TEXT_LENGTHS[2], model.text_dim, device=device) for _ in range(2))
    start = torch.randn(model.in_channels, height, width, device=device)
    samples = [Sample(str(n), start, solution, 5.0 if guided else 1.0, prompt, negative, n) for n in range(slots)]
    cache = StepCache(model.layers)
    rows = [Row(sample, StepPlan(cache, solution, sample.guided)) for sample in samples]
    batch = Batch(model, 0, cache, slots, samples[0], stationary)
    times = []
    for _ in range(WARM_UP + REPEATS):
        begin = synchronized_time(device)
        batch.step(rows[0].plan.next_kind, rows)
        times.append(synchronized_time(device) - begin)
    return statistics.median(times[WARM_UP:]) / slots


def _too_large(device: torch.device, reserved: int) -> bool:
    """Whether the last step, with the other parts beside it, would fill more than nine tenths of the device."""
    if device.type != "cuda":
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) + reserved > 0.9 * total
