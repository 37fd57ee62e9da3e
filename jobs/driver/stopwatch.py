"""Seconds of each part of a command."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Name the part that ends now."""
        now = time.perf_counter()
        self._laps[name], self._last = now - self._last, now

    def seconds(self) -> dict[str, float]:
        """The seconds of each part, and `total`, rounded to milliseconds."""
        total = time.perf_counter() - self._begin
        return {name: round(value, 3) for name, value in {**self._laps, "total": total}.items()}
