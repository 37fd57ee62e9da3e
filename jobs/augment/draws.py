"""Draws that follow from a key alone, such as a seed and the digest of a source. Pure.

Whoever draws with the same key gets the same value, on every machine and with every version of every library,
whatever was drawn before. So the rows of one source do not depend on which other sources there are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Key = Sequence[str | int]


def digest(key: Key, size: int = 8) -> bytes:
    """Bytes that follow from a key. size: how many, at most 64."""
    return hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=size).digest()


def integer(key: Key, below: int) -> int:
    """A whole number from 0 to below a bound."""
    return int.from_bytes(digest(key, 16)) % below


def uniform(key: Key) -> float:
    """A number from 0 to below 1."""
    return (int.from_bytes(digest(key)) >> 11) / 2**53


def choice(options: Sequence[tuple[T, float]], key: Key) -> T:
    """One of some options. options: with their weights, above 0."""
    left = uniform(key) * sum(weight for _, weight in options)
    for option, weight in options:
        left -= weight
        if left < 0:
            return option
    return options[-1][0]


def shares(count: int, key: Key) -> tuple[float, ...]:
    """Shares of a blend, uniform among all that add up to 1, the largest first. count: of parents."""
    drawn = sorted((-math.log(1 - uniform([*key, index])) for index in range(count)), reverse=True)
    rounded = [round(max(value / sum(drawn), 0.01), 4) for value in drawn]
    return tuple(rounded)


class Partners:
    """Which sources are blended with one, of the same class and split, each as likely as the others.

    Each draw gives every source a number, and those with the lowest numbers are taken. So a source that is added
    later changes only the draws that now give the added one.
    """

    def __init__(self, digests: Sequence[str]):
        """digests: of all sources of the class in the split, hex."""
        self._digests = sorted(digests)
        self._points = np.array([int(one[:16], 16) for one in self._digests], dtype=np.uint64)
        self._place = {one: index for index, one in enumerate(self._digests)}

    def of(self, source: str, count: int, key: Key) -> tuple[str, ...]:
        """The digests of at most `count` partners of a source, all different."""
        numbers = _mixed(self._points ^ np.uint64(int.from_bytes(digest([*key, "partners"]))))
        count = min(count, len(self._digests) - 1)
        lowest = np.argsort(numbers, kind="stable")[: count + 1]
        others = [index for index in lowest.tolist() if index != self._place[source]]
        return tuple(self._digests[index] for index in others[:count])


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014). values: uint64, any shape."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
