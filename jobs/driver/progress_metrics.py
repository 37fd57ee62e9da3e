"""A run's progress as metrics: whatever shows progress is told as before, and Ray exports the same numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from wanbatch.jobs.config.metrics import FAILED, MADE, PENDING
from wanbatch.jobs.reporting.progress import Progress
from wanbatch.jobs.worker.metrics import RayRecorder, Record

EVERY_SECONDS = 5.0


class ProgressMetrics:
    """Progress that is also recorded, at most every few seconds."""

    def __init__(
        self,
        shown: Progress,
        total: int,
        out: str,
        record: Record | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Record beside what is shown.

        Args:
            shown: is told everything.
            total: images of the manifest.
            out: the output folder, a path or URL.
            record: instead of Ray.
            clock: seconds of a monotonic clock.
        """
        self._shown, self._total, self._tags = shown, total, {"out": out}
        self._record, self._clock = record or RayRecorder(), clock
        self._next = -EVERY_SECONDS

    def update(self, made: int, failed: int) -> None:
        """Show how many images are made and have failed, and record it now and then."""
        self._shown.update(made, failed)
        left = self._total - made - failed
        if self._clock() >= self._next or left <= 0:
            self._next = self._clock() + EVERY_SECONDS
            for spec, value in ((MADE, made), (FAILED, failed), (PENDING, left)):
                self._record(spec, value, self._tags)

    def __getattr__(self, name: str) -> Any:
        """Whatever else there is to tell goes to what is shown."""
        return getattr(self._shown, name)
