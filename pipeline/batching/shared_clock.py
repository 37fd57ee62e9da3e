"""Whose time it was: the seconds and the slots of a batch, divided among its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wanbatch.pipeline.core.device import Moment, Span
from wanbatch.pipeline.core.samples import Sample


class SharedClock:
    """Divides the time between two departures among the rows by the blocks that ran for each in it.

    Nobody waits for the device: the times are known when it has come so far.

    Args:
        device: Whose time it is.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._shares: dict[Sample, float] = {}
        self._spans: dict[Sample, list[Span]] = {}
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
        now, total = Moment(self._device), sum(self._shares.values())
        for sample, share in self._shares.items():
            self._spans.setdefault(sample, []).append(Span(self._since, now, share / total))
        self._shares.clear()

    def take(self, sample: Sample) -> tuple[tuple[Span, ...], float]:
        """A row's time, and its share of the slots that its evaluations ran; both are then forgotten."""
        return tuple(self._spans.pop(sample)), self._slot_steps.pop(sample)

    def restart(self) -> None:
        """Start again after time that was spent elsewhere."""
        self._since = Moment(self._device)
