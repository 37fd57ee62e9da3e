"""The steps of a start, one after the other, and the seconds that each took."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import psutil


class StartSteps:
    """The steps of this process from its very begin, before Python ran; they follow each other without a gap."""

    def __init__(self) -> None:
        self._began = self._last = psutil.Process().create_time()
        self._seconds: dict[str, float] = {}
        self._beside: dict[str, float] = {}

    def end(self, name: str) -> None:
        """Name the step that ends now."""
        now = time.time()
        self._seconds[name] = self._seconds.get(name, 0.0) + max(0.0, now - self._last)
        self._last = now

    def beside(self, name: str, seconds: float) -> None:
        """Note what ran beside the steps, in another thread."""
        self._beside[name] = seconds

    def as_json(self) -> dict[str, Any]:
        """When the process began, and the seconds of each step, as the log of a run has them."""
        began = datetime.fromtimestamp(self._began, UTC).isoformat(timespec="milliseconds")
        steps = {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        beside = {name: round(seconds, 3) for name, seconds in self._beside.items()}
        return {"process_began": began, "steps": steps, **({"beside": beside} if beside else {})}
