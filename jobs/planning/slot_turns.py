"""How many slots a worker computes for the images that it makes, those without an image included. Pure.

All slots are computed at each turn, whether they have a row or not. Rows of one size class take the slots in their
order, each for as many turns as it has evaluations; rows of the next unit enter as those of the last one leave, as
long as few units are open. A new worker has nothing beside its first unit until an image of that is made. What is
left empty is the end of each size class, and where a long row holds a unit open.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

import numpy as np

MAX_IN_MODEL = 4
"""Units of which a worker's model has images: those of long denoising hold nobody up until then."""

ONE_BY_ONE = 1
"""As many, in versions until 0.1.0: a unit began when the one before was done."""

FOLLOWED = 4096
"""Rows of a size class that are followed through the slots; the others of it are taken to be like them."""


def slots_computed(
    evaluations: np.ndarray,
    group: np.ndarray,
    unit: np.ndarray,
    slots: int,
    in_model: int = MAX_IN_MODEL,
    first: Collection[int] = (),
) -> np.ndarray:
    """How many slots are computed for each evaluation of an image; float64 [images], 1 where none is ever empty.

    Args:
        evaluations: of each image, in the order in which they are made.
        group: a number for each, equal for those that share slots: of one worker and one size class.
        unit: the number of its unit.
        slots: rows denoised together.
        in_model: units that a worker has open at a time.
        first: the first unit of each worker: the next one enters when one of its images is made.
    """
    factor = np.ones(len(evaluations))
    order = np.argsort(group, kind="stable")
    for of_group in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else ():
        its = of_group[evaluations[of_group] > 0][:FOLLOWED]
        if len(its):
            rows = zip(evaluations[its].tolist(), unit[its].tolist(), strict=True)
            factor[of_group] = turns_of(rows, slots, in_model, first) * slots / evaluations[its].sum()
    return factor


def turns_of(
    rows: Iterable[tuple[int, int]], slots: int, in_model: int = MAX_IN_MODEL, first: Collection[int] = ()
) -> int:
    """How many turns rows of one size class take.

    Args:
        rows: (evaluations, number of its unit) of each, in their order.
        slots: rows denoised together.
        in_model: units that are open at a time.
        first: units that the next one enters when one of their images is made.
    """
    free = [0] * slots  # when each slot is free
    ends: list[int] = []  # of the units so far: when all rows of it and of those before it were done
    current, end, gate, begun = -1, 0, 0, 0  # begun: when the unit's first image is made
    for evaluations, unit in rows:
        if unit != current:
            if current != -1:
                ends.append(end)
            gate = max(gate, begun if current in first else 0, ends[-in_model] if len(ends) >= in_model else 0)
            current, begun = unit, 0
        done = max(free[0], gate) + evaluations
        heapq.heapreplace(free, done)
        end, begun = max(end, done), min(begun or done, done)
    return end


def dealt(work: Iterable[float], workers: int) -> list[int]:
    """Which worker takes each unit, if the one that is done first takes the next.

    Args:
        work: of each unit, in their order.
        workers: how many there are.
    """
    loads = [(0.0, worker) for worker in range(workers)]
    found = []
    for one in work:
        load, worker = loads[0]
        heapq.heapreplace(loads, (load + one, worker))
        found.append(worker)
    return found
