"""How long a unit may take before its worker counts as hung."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from wanbatch.jobs.driver.worker_pool import Unit


class Deadlines:
    """How long a unit may take: ten times what the slowest one so far would have needed.

    Work is counted in pixels times steps, so a unit of large pictures is not judged by small ones, and pictures
    that failed count for nothing. Until one is made there is nothing to measure by, and the first may compile.
    images: of the plan. fixed: seconds for every unit, instead.
    """

    FIRST, LEAST, MARGIN = 3600.0, 120.0, 10.0

    def __init__(self, images: pa.Table, fixed: float | None):
        width, height, steps = (images[name].to_numpy().astype(np.float64) for name in ("width", "height", "steps"))
        self.work = width * height * (steps + 1)  # one more for decoding
        self.fixed = fixed
        self.slowest = 0.0  # seconds for one step of one pixel

    def measured(self, unit: Unit, made: int, seconds: float) -> None:
        """Learn from a unit of which `made` images were made."""
        if made:
            self.slowest = max(self.slowest, seconds / (self._work(unit) * made / len(unit.places)))

    def of(self, unit: Unit) -> float:
        """Seconds."""
        if self.fixed is not None:
            return self.fixed
        return max(self.LEAST, self.MARGIN * self.slowest * self._work(unit)) if self.slowest else self.FIRST

    def _work(self, unit: Unit) -> float:
        return float(self.work[unit.places].sum())
