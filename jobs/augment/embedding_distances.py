"""How two sets of embeddings differ: kernel inception distance, precision and recall. Pure.

The distance is that of Binkowski et al. 2018 (arXiv:1801.01401): the unbiased squared maximum mean discrepancy with
the kernel (x y / dimensions + 1)^3, over whole sets instead of random subsets, so that it is the same every time.
Precision and recall are those of Kynkaanniemi et al. 2019 (arXiv:1904.06991), with the third nearest neighbour.

Each embedding is compared with each, so time grows with the square of their number; memory does not: `ROWS` are
compared with `ROWS` at a time, and kept are 10 bytes of each embedding at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NEIGHBOUR = 3
ROWS = 1024
"""Embeddings that are compared with as many others at a time."""


class Rows(Protocol):
    """Embeddings, in memory or elsewhere: float [N, dimensions]."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, places: slice, /) -> np.ndarray:
        """Those at some places, one after the other."""


@dataclass(frozen=True, slots=True)
class Differences:
    """How made pictures differ from real ones.

    Attributes:
        kid: the kernel inception distance; about 0 for alike sets, and below it by chance.
        within: bool [made], which lie within the real ones: not farther from one of these than its third neighbour
            is. Their share is the precision.
        covered: bool [real], which lie within the made ones. Their share is the recall.
    """

    kid: float
    within: np.ndarray
    covered: np.ndarray


def differences(made: Rows, real: Rows) -> Differences:
    """Compare two sets. made, real: at least 2 each, of the same dimensions."""
    within, covered = np.zeros(len(made), bool), np.zeros(len(real), bool)
    radii = np.zeros(len(real))
    of_real, of_made, between = [], [], []
    for start, block in _blocks(real):
        radii[start : start + len(block)], total = _among_own(block, real)
        of_real.append(total)
    for start, block in _blocks(made):
        own_radii, total = _among_own(block, made)
        of_made.append(total)
        for other_start, other in _blocks(real):
            products = block @ other.T
            squares = _squares(block, other, products)
            there = slice(other_start, other_start + len(other))
            within[start : start + len(block)] |= (squares <= radii[there]).any(axis=1)
            covered[there] |= (squares <= own_radii[:, None]).any(axis=0)
            between.append(_kernels(products, block.shape[1]))
    mean_between = math.fsum(between) / (len(made) * len(real))
    kid = _mean_of_pairs(of_made, len(made)) + _mean_of_pairs(of_real, len(real)) - 2 * mean_between
    return Differences(kid, within, covered)


def _blocks(its: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Where each block begins, and its embeddings, float64."""
    for start in range(0, len(its), ROWS):
        yield start, its[start : start + ROWS].astype(np.float64)


def _among_own(block: np.ndarray, its: Rows) -> tuple[np.ndarray, float]:
    """A block of a set in that set.

    Returns:
        Of each of the block the squared distance of its third neighbour, float64 [block]; and the sum of the kernels
        of all pairs of which the block has the first, but of those with themselves.
    """
    nearest = min(NEIGHBOUR, len(its) - 1)  # the first of all is itself
    kernels = []
    least = np.zeros((len(block), 0))
    for _, other in _blocks(its):
        products = block @ other.T
        squares = _smallest(_squares(block, other, products), nearest)
        least = _smallest(np.concatenate([least, squares], axis=1), nearest)
        kernels.append(_kernels(products, block.shape[1]))
    kernels.append(-_kernels(np.square(block).sum(axis=1), block.shape[1]))
    return least.max(axis=1), math.fsum(kernels)


def _smallest(squares: np.ndarray, nearest: int) -> np.ndarray:
    """The smallest `nearest` + 1 values of each row, or all if there are no more."""
    if squares.shape[1] <= nearest + 1:
        return squares
    return np.partition(squares, nearest, axis=1)[:, : nearest + 1]


def _squares(one: np.ndarray, other: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Squared distances, float64 [one, other]. products: one @ other.T."""
    squares = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * products
    return squares.clip(min=0)


def _kernels(products: np.ndarray, dimensions: int) -> float:
    """The sum of the kernels of pairs. products: of the embeddings of each pair."""
    values = products / dimensions + 1
    return float((values * values * values).sum())


def _mean_of_pairs(kernels: list[float], count: int) -> float:
    return math.fsum(kernels) / (count * (count - 1))
