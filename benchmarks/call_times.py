"""Seconds of calls, as several scripts measure them."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from wanbatch.pipeline.core.device import synchronized_time

WARM = 2  # calls before those that count


def seconds_of(
    call: Callable[[], object], device: torch.device, rounds: int = 10, at_once: int = 1
) -> tuple[float, list[float]]:
    """Seconds of the first call, and of one call in each round, fewest first.

    Args:
        call: What is measured.
        device: That it works on, which is waited for.
        rounds: How many count.
        at_once: Calls in a round, none of which waits for the one before.
    """
    times = []
    for number in range(WARM + rounds):
        calls = at_once if number >= WARM else 1
        begin = synchronized_time(device)
        for _ in range(calls):
            call()
        times.append((synchronized_time(device) - begin) / calls)
    return times[0], sorted(times[WARM:])


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of ten calls, each of which is waited for."""
    return round(statistics.median(seconds_of(call, device)[1]) * 1000, 3)
