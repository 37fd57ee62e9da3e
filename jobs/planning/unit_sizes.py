"""How many images a unit has: few enough that every worker has something to do, also at the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNITS_OF_WORKER = 4
"""So many units a worker are cut of small runs, where its slots can be filled by each."""


def rows_of_a_unit(pending: int, workers: int, slots: int, most: int) -> int:
    """How many images the units of a run have at most.

    Every worker gets a unit where there are images enough to fill the slots of each; a batch of fewer rows would
    take as long.

    Args:
        pending: images to make.
        workers: at most so many.
        slots: rows that are denoised together.
        most: images of a unit, as the settings have it.
    """
    if workers == 1:
        return most
    share = -(-pending // workers)
    units = min(UNITS_OF_WORKER, max(1, share // slots))
    return min(most, max(slots, -(-share // units)))


def shortened_at_the_end(units: Sequence[np.ndarray], workers: int, slots: int) -> list[np.ndarray]:
    """Halve the last units, two for each worker, so that workers end at about the same time.

    None gets fewer images than there are slots. One worker's are left as they are.
    """
    if workers == 1:
        return list(units)
    last = max(0, len(units) - 2 * workers)
    shortened = list(units[:last])
    for unit in units[last:]:
        middle = len(unit) // 2
        shortened += [unit[:middle], unit[middle:]] if middle >= slots else [unit]
    return shortened
