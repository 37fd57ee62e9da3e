"""Seconds of each part of a command, and of each step of its start."""

from __future__ import annotations

import time

from wanbatch.jobs.worker.start_steps import StartSteps


class Stopwatch:
    """Runs from the moment it is made.

    Attributes:
        steps: of the start, from the begin of this process to the first worker that is ready.
    """

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}
        self.steps = StartSteps()
        self.steps.end("process and imports")

    def lap(self, name: str) -> None:
        """Name the part that ends now."""
        now = time.perf_counter()
        self._laps[name], self._last = now - self._last, now

    def seconds(self) -> dict[str, float]:
        """The seconds of each part, and `total`, rounded to milliseconds."""
        total = time.perf_counter() - self._begin
        return {name: round(value, 3) for name, value in {**self._laps, "total": total}.items()}
