"""Whose time it was: the seconds of a batch, divided among its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.samples import Sample


class SharedClock:
    """Divides the time between two departures among the rows by the blocks that ran for each in it.

    Args:
        device: Whose work is waited for when the clock is read.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._shares: dict[Sample, float] = {}
        self._seconds: dict[Sample, float] = {}
        self.restart()

    def count(self, samples: Sequence[Sample], blocks: int) -> None:
        """Count one evaluation, of so many blocks, for these rows. What surrounds the blocks counts as one more."""
        for sample in samples:
            self._shares[sample] = self._shares.get(sample, 0.0) + (blocks + 1) / len(samples)

    def share(self) -> None:
        """Give each row its part of the time since the clock was started."""
        elapsed = synchronized_time(self._device) - self._since
        total = sum(self._shares.values())
        for sample, share in self._shares.items():
            self._seconds[sample] = self._seconds.get(sample, 0.0) + elapsed * share / total
        self._shares.clear()

    def take(self, sample: Sample) -> float:
        """A row's seconds, which are then forgotten."""
        return self._seconds.pop(sample)

    def restart(self) -> None:
        """Start again after time that was spent elsewhere."""
        self._since = synchronized_time(self._device)
