"""How long a unit may take before its worker counts as hung. Pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from wanbatch.jobs.planning.units import Unit


class Deadlines:
    """How long a unit may take: ten times what the slowest one so far would have needed.

    Work is counted in pixels times steps, so a unit of large pictures is not judged by small ones, and pictures
    that failed count for nothing. Until one is made there is nothing to measure by, and the first may compile.
    """

    FIRST, LEAST, MARGIN = 3600.0, 120.0, 10.0

    def __init__(self, images: pa.Table, fixed: float | None):
        """Judge units of a plan.

        Args:
            images: those of the plan.
            fixed: seconds for every unit, instead of what is measured.
        """
        width, height, steps = (images[name].to_numpy().astype(np.float64) for name in ("width", "height", "steps"))
        self._work_of_image = width * height * (steps + 1)  # one more for decoding
        self._fixed = fixed
        self._slowest = 0.0  # seconds for one step of one pixel

    def learn(self, unit: Unit, made: int, seconds: float) -> None:
        """Learn from a unit of which `made` images were made in so many seconds."""
        if made:
            self._slowest = max(self._slowest, seconds / (self._work(unit) * made / unit.size))

    def seconds_for(self, unit: Unit) -> float:
        """How many seconds a unit may take."""
        if self._fixed is not None:
            return self._fixed
        return max(self.LEAST, self.MARGIN * self._slowest * self._work(unit)) if self._slowest else self.FIRST

    def _work(self, unit: Unit) -> float:
        return float(self._work_of_image[unit.indices].sum())
