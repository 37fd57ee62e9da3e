"""How long a unit may take before its worker counts as hung. Pure.

What a unit needs is not known exactly: its rows are denoised in a batch of fixed size, in which some slots may be
idle. If W is the work of its rows and M that of the largest of them, a batch of S slots costs as much as max(W, S M)
rows of work at least, and W + S M at most (Graham 1969, bounds on multiprocessing timing anomalies). So the time of
a unit that came back is divided by the least that it can have been, and that of the next is estimated by the most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.planning.workload import Workload

FIRST_BATCH_SECONDS = 3600.0
"""Each batch of rows, before anything of the kind was made: nothing is measured yet, and the model may compile."""
UNIT_SECONDS = 120.0
"""Every unit: a slow disk, a worker that is held up."""
IMAGE_SECONDS = 2.0
"""Each image: what does not grow with its pixels, such as reading, hashing and writing."""
WEB_SOURCE_SECONDS = 60.0
"""Each source on the web: as long as `manifests/sources/http.py` waits for one."""
MARGIN = 10.0


class Deadlines:
    """How long a unit may take: a constant share, and ten times what the slowest one so far would have needed.

    Units of which the model evaluates nothing (all rows of creativity 0) tell nothing of those that it does. Images
    that failed count for nothing.
    """

    def __init__(self, work: Workload, ids: Sequence[str], slots: int, fixed: float | None):
        """Judge units of a plan.

        Args:
            work: of the plan's images.
            ids: of the plan's images.
            slots: rows that are denoised together.
            fixed: seconds for every unit, instead of what is measured.
        """
        self._work, self._ids, self._slots, self._fixed = work, ids, slots, fixed
        self._slowest = 0.0  # seconds for one pixel of work, of units that were denoised
        self._slowest_coding = 0.0  # the same, of units of which nothing was

    def learn(
        self,
        unit: Unit,
        made: Collection[str],
        seconds: float,
        slots: int | None = None,
        slot_use: float | None = None,
    ) -> None:
        """Learn from a unit that came back.

        Args:
            unit: which one.
            made: the ids of its images that were made.
            seconds: that it took, whatever became of the other images.
            slots: rows that were denoised together; default: as many as the run began with.
            slot_use: the share of the slots that had a row, where it was counted: other slots had rows of other
                units, whose time is not the unit's. None: the least that the unit can have cost is assumed.
        """
        names = frozenset(made)
        places = [place for place in unit.indices.tolist() if self._ids[place] in names]
        if not places:
            return
        denoising = self._work.denoising[places]
        batch = (slots or self._slots) * denoising.max()
        cost = denoising.sum() / slot_use if slot_use else max(denoising.sum(), batch)
        rate = seconds / (self._work.coding[places].sum() + cost)
        if batch:
            self._slowest = max(self._slowest, rate)
        else:
            self._slowest_coding = max(self._slowest_coding, rate)

    def seconds_for(self, unit: Unit) -> float:
        """How many seconds a unit may take."""
        if self._fixed is not None:
            return self._fixed
        places = unit.indices
        denoising = self._work.denoising[places]
        batch = self._slots * denoising.max()
        rate = self._slowest if batch else max(self._slowest, self._slowest_coding)
        constant = (
            UNIT_SECONDS
            + IMAGE_SECONDS * unit.size
            + WEB_SOURCE_SECONDS * float(self._work.web_sources[places].sum())
        )
        if not rate:
            return constant + FIRST_BATCH_SECONDS * math.ceil(unit.size / self._slots)
        return constant + MARGIN * rate * float(self._work.coding[places].sum() + denoising.sum() + batch)
