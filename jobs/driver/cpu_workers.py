"""How many workers a run has on a machine without a GPU: as many as cores, memory and threads have room for.

Their number changes no pixel. The number of threads of each does, and is a setting, the same on every machine: a
folder that was begun on two cores goes on, on eight of them, with four workers of two threads. Without Ray or torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.gpu_memory import needed_memory
from wanbatch.jobs.planning.plan import Plan
from wanbatch.machine import available_memory, room_for_threads, usable_cores
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import MERGED

WORKER_BYTES = 1 << 30
"""Of the process of a worker with a small model, twice what one with the model that ships takes (0.5 GB)."""
OTHER_BYTES = 1 << 30
"""Of memory that is left to the driver, to Ray and to whoever else uses the machine."""
WORKER_THREADS = 60
"""Threads of a worker's process, twice what one has on two cores (34)."""
FIRST_THREADS = 250
"""Threads of Ray, the driver and a first worker."""

_log = logging.getLogger(__name__)


def workers_with_room(cores: int, threads: int, memory: int, each: int, rooms: Mapping[str, int]) -> int:
    """How many workers there is room for; one at least.

    Args:
        cores: that may be used.
        threads: of PyTorch in each worker.
        memory: bytes that are free.
        each: bytes that a worker takes.
        rooms: how many more threads can be started, by what limits them (`machine.room_for_threads`).
    """
    by_threads = (1 + (room - FIRST_THREADS) // WORKER_THREADS for room in rooms.values())
    return max(1, min(cores // threads, (memory - OTHER_BYTES) // each, *by_threads))


def workers_here(threads: int, model_bytes: int = 0) -> int:
    """How many workers this machine has room for, as of now; one at least.

    Args:
        threads: of PyTorch in each.
        model_bytes: that a large model takes in each.
    """
    return workers_with_room(
        usable_cores(), threads, available_memory(), WORKER_BYTES + model_bytes, room_for_threads()
    )


def with_model(workers: int, settings: Settings, model: ModelInfo, plan: Plan, execution: ExecutionConfig) -> int:
    """How many of the workers that a small model would have there is memory for.

    Where the memory leaves cores without work, a warning says how to use them.

    Args:
        workers: that `workers_here` found.
        settings: of the run. With a number of workers, that one is kept.
        model: that each of them loads.
        plan: what is made; its largest picture counts.
        execution: of the run. On a GPU the number is kept.
    """
    if settings.workers not in (None, AUTO) or execution.device != "cpu":
        return workers
    slots = 1 if settings.slots == AUTO else int(settings.slots)
    merged = settings.row_adapters == MERGED
    needed = needed_memory(model, plan, execution.precision, slots, settings.text_precision == "fp8", merged)
    fitting = min(workers, workers_here(settings.threads, next(iter(needed.values()), 0))) if needed else workers
    if fitting < workers:
        _log.warning(
            "there is memory for %d of the %d workers of %d threads that %d cores could have: a new folder may have "
            "--threads %d instead, which is part of what fixes the pixels",
            fitting,
            workers,
            settings.threads,
            usable_cores(),
            usable_cores() // fitting,
        )
    return fitting
