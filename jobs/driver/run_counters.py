"""How far a run is, in images and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from wanbatch.manifests.sources.notes import NotedImages, added

_NO_NOTES: Mapping[str, NotedImages] = MappingProxyType({})


class RunCounters:
    """Counts what a run has made, quarantined and spent."""

    def __init__(
        self, rows: int, made_before: int, quarantined_before: int, clock: Callable[[], float] = time.monotonic
    ):
        """Start counting.

        Args:
            rows: images of the plan.
            made_before: of these, made by earlier runs and kept.
            quarantined_before: of these, quarantined by earlier runs and kept so.
            clock: seconds of a monotonic clock.
        """
        self._rows, self._clock = rows, clock
        self._made_before, self._quarantined_before = made_before, quarantined_before
        self._made_now = self._quarantined_now = 0
        self._model_seconds = self._warm_up_seconds = self._slot_steps = 0.0
        self._evaluations = self._moves = 0
        self._move_seconds = 0.0
        self._source_notes: dict[str, NotedImages] = {}
        self._ready_since: dict[int, float] = {}

    @property
    def made(self) -> int:
        """Images that are made, by this run and earlier ones."""
        return self._made_before + self._made_now

    @property
    def made_now(self) -> int:
        """Images that this run has made."""
        return self._made_now

    @property
    def quarantined(self) -> int:
        """Images that are quarantined, by this run and earlier ones."""
        return self._quarantined_before + self._quarantined_now

    @property
    def quarantined_now(self) -> int:
        """Images that this run has quarantined."""
        return self._quarantined_now

    @property
    def pending(self) -> int:
        """Images that are to be made and are neither made nor quarantined yet."""
        return self._rows - self.made - self.quarantined

    @property
    def warm_up_seconds(self) -> float:
        """How long the worker that took longest compiled the model."""
        return self._warm_up_seconds

    @property
    def model_busy(self) -> float | None:
        """The share of the time since each worker was first ready in which it had images in the model."""
        now = self._clock()
        seconds = sum(now - since for since in self._ready_since.values())
        return round(self._model_seconds / seconds, 4) if seconds else None

    @property
    def slot_use(self) -> float | None:
        """The share of the slots of all evaluations that had an image; None if nothing was evaluated."""
        return round(self._evaluations / self._slot_steps, 4) if self._slot_steps else None

    @property
    def moves(self) -> int:
        """How often parts of the model came to a device on which they take turns."""
        return self._moves

    @property
    def move_seconds(self) -> float:
        """How long that took, all workers together."""
        return round(self._move_seconds, 3)

    def parts_moved(self, moves: int, seconds: float) -> None:
        """Count parts of a model that came to a device."""
        self._moves += moves
        self._move_seconds += seconds

    def slots_used(self, evaluations: int, slot_steps: float) -> None:
        """Count the evaluations of images, and the slots that these took, those without an image included."""
        self._evaluations += evaluations
        self._slot_steps += slot_steps

    def worker_ready(self, slot: int, warm_up_seconds: float) -> None:
        """Count a worker that is ready to make images."""
        self._ready_since.setdefault(slot, self._clock())
        self._warm_up_seconds = max(self._warm_up_seconds, warm_up_seconds)

    @property
    def source_notes(self) -> dict[str, NotedImages]:
        """What the user should know of the sources of images of this run, by the names of `notes.WORDS`."""
        return dict(self._source_notes)

    def unit_published(
        self,
        made: int,
        quarantined: int,
        model_seconds: float = 0.0,
        source_notes: Mapping[str, NotedImages] = _NO_NOTES,
    ) -> None:
        """Count the images of a unit whose commit is written."""
        self._source_notes = added(self._source_notes, source_notes)
        self._made_now += made
        self._quarantined_now += quarantined
        self._model_seconds += model_seconds
