"""The units that a run cuts of a plan, by its workers and slots. Pure."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.unit_sizes import rows_of_a_unit, shortened_at_the_end


def units_of_run(plan: Plan, done: Collection[str], workers: int, slots: int, most: int) -> list[np.ndarray]:
    """Indices of the images of each unit, in the order in which they are handed out.

    Args:
        plan: of the run.
        done: ids of images that are not to be made.
        workers: at most so many.
        slots: rows that are denoised together.
        most: images of a unit, as the settings have it.
    """
    pending = sum(1 for name in plan.ids() if name not in done)
    units = plan.units(rows_of_a_unit(pending, workers, slots, most), done, workers)
    return shortened_at_the_end(units, workers, slots)
