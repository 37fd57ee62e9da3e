"""Which images a report shows: some of every kind. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def stratified(strata: Sequence[tuple], costs: Sequence[int], names: Sequence[str], limit: int) -> list[int]:
    """Choose images of all kinds in turn, so that rare kinds are shown, too.

    Args:
        strata: the kind of each image; images of equal kinds are of one stratum.
        costs: what it takes to read each image; in a stratum the cheap ones come first.
        names: the id of each image; by its hash images of the same cost are chosen, the same ones each time.
        limit: images at most.

    Returns:
        Indices, ascending.
    """
    if len(strata) <= limit:
        return list(range(len(strata)))
    members: dict[tuple, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    kinds = sorted(members, key=str)
    if len(kinds) > limit:  # evenly spaced ones
        kinds = [kinds[index] for index in np.linspace(0, len(kinds) - 1, limit).astype(int)]
    for kind in kinds:
        members[kind].sort(key=lambda index: (costs[index], _hash(names[index])))
    chosen: list[int] = []
    turn = 0
    while len(chosen) < limit:
        more = [members[kind][turn] for kind in kinds if turn < len(members[kind])]
        chosen += more[: limit - len(chosen)]
        turn += 1
        if not more:
            break
    return sorted(chosen)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
