"""Whose time it was: the seconds and the slots of a batch, divided among its rows."""

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
        self._slot_steps: dict[Sample, float] = {}
        self.restart()

    def count(self, samples: Sequence[Sample], blocks: int, slots: int) -> None:
        """Count one evaluation, of so many blocks in so many slots, for the rows that took part.

        What surrounds the blocks counts as one more. Slots without a row are charged to the rows of the others.
        """
        for sample in samples:
            self._shares[sample] = self._shares.get(sample, 0.0) + (blocks + 1) / len(samples)
            self._slot_steps[sample] = self._slot_steps.get(sample, 0.0) + slots / len(samples)

    def share(self) -> None:
        """Give each row its part of the time since the clock was started."""
        if not self._shares:
            return
        elapsed = synchronized_time(self._device) - self._since
        total = sum(self._shares.values())
        for sample, share in self._shares.items():
            self._seconds[sample] = self._seconds.get(sample, 0.0) + elapsed * share / total
        self._shares.clear()

    def take(self, sample: Sample) -> tuple[float, float]:
        """A row's seconds, and its share of the slots that its evaluations ran; both are then forgotten."""
        return self._seconds.pop(sample), self._slot_steps.pop(sample)

    def restart(self) -> None:
        """Start again after time that was spent elsewhere."""
        self._since = synchronized_time(self._device)
