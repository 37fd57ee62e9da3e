"""Which of many pictures may be near-copies of one: those in the same buckets of their hashes or colours. Pure.

Nothing that is near is left out. Of two hashes that differ in at most 10 of 64 bits, one of the four quarters
differs in at most 2 (10 bits in four quarters cannot be 3 or more in each), as in multi-index hashing (Norouzi,
Punjani, Fleet 2012). Colours that differ by at most so much everywhere lie in the same cell of a grid, or in one
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

BANDS = 4
"""Quarters of a hash."""
BAND_BITS = 16
CELL = 32
"""Values of a colour in a cell."""
DIMENSIONS = 8
"""Colours that cells are of, of all colours of a picture."""
SAMPLE = 4096
"""Pictures by which these are chosen."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Pictures in some buckets of a table.

    Attributes:
        order: the places of all pictures, by bucket.
        begins: where in it each of the buckets begins.
        ends: where it ends.
    """

    order: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @property
    def count(self) -> int:
        """How many pictures there are in the buckets."""
        return int((self.ends - self.begins).sum())

    def places(self) -> np.ndarray:
        """Their places, bucket by bucket."""
        lengths = self.ends - self.begins
        before = np.cumsum(lengths) - lengths
        return self.order[np.arange(int(lengths.sum())) + np.repeat(self.begins - before, lengths)]


class HashBands:
    """Hashes by each of their quarters."""

    def __init__(self, hashes: np.ndarray, bits: int):
        """Sort them.

        Args:
            hashes: uint64 [pictures].
            bits: in which two hashes may differ.
        """
        self._flips = _flips(bits // BANDS)
        self._tables = []
        for band in range(BANDS):
            keys = (hashes >> np.uint64(band * BAND_BITS)).astype(np.uint16)
            order = np.argsort(keys, kind="stable").astype(np.int32)
            counts = np.bincount(keys, minlength=1 << BAND_BITS)
            self._tables.append((order, np.concatenate([[0], np.cumsum(counts)])))

    def runs(self, wanted: int) -> list[Runs]:
        """The pictures of which a quarter of the hash is nearly that of a hash; one may come several times."""
        found = []
        for band, (order, begins) in enumerate(self._tables):
            keys = (wanted >> (band * BAND_BITS)) % (1 << BAND_BITS) ^ self._flips
            found.append(Runs(order, begins[keys], begins[keys + 1]))
        return found


def _flips(radius: int) -> np.ndarray:
    """All numbers of `BAND_BITS` bits of which at most so many are set."""
    chosen = (bits for count in range(radius + 1) for bits in combinations(range(BAND_BITS), count))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], np.int64)


class ColourCells:
    """Colours of pictures by the cells of a grid, in those of their values that tell most of them apart."""

    def __init__(self, few: np.ndarray, chosen: np.ndarray):
        """Sort pictures.

        Args:
            few: uint8 [pictures, `DIMENSIONS` or fewer], the values of each that are chosen.
            chosen: which of all values these are, as `telling_colours` says.
        """
        self._chosen = chosen
        keys = np.zeros(len(few), np.int32)
        for column, weight in zip(few.T, self._weights.tolist(), strict=True):
            keys += (column // CELL).astype(np.int32) * np.int32(weight)
        self._order = np.argsort(keys, kind="stable").astype(np.int32)
        self._keys = keys[self._order]

    @property
    def _weights(self) -> np.ndarray:
        return (256 // CELL) ** np.arange(len(self._chosen), dtype=np.int64)

    def runs(self, wanted: np.ndarray, apart: int) -> Runs:
        """The pictures in all cells that colours near to some are in.

        Args:
            wanted: uint8 [values].
            apart: by how much each value may differ.
        """
        values = wanted[self._chosen].astype(np.int64)
        keys = np.zeros(1, np.int64)
        for value, weight in zip(values, self._weights, strict=True):
            first, last = max(0, value - apart) // CELL, min(255, value + apart) // CELL
            keys = (keys[:, None] + np.arange(first, last + 1) * weight).reshape(-1)
        keys = keys.astype(self._keys.dtype)  # else all of these would be copied to compare with them
        return Runs(self._order, np.searchsorted(self._keys, keys), np.searchsorted(self._keys, keys, "right"))


def telling_colours(colours: np.ndarray) -> np.ndarray:
    """Which values tell pictures apart best: each has the largest variance that those before it do not explain.

    That is the order of pivots in a Cholesky decomposition of the covariances.

    Args:
        colours: uint8 [pictures, values], at least two pictures.

    Returns:
        int64 [`DIMENSIONS`], or fewer if no more vary.
    """
    left = np.cov(colours, rowvar=False, dtype=np.float64)
    chosen: list[int] = []
    while len(chosen) < DIMENSIONS:
        variances = np.diagonal(left)
        best = int(np.argmax(variances))
        if variances[best] <= 1.0:
            break
        chosen.append(best)
        left = left - np.outer(left[:, best], left[best]) / variances[best]
    return np.array(chosen, np.int64)
