"""How two sets of embeddings differ: kernel inception distance, precision and recall. Pure.

The distance is that of Binkowski et al. 2018 (arXiv:1801.01401): the unbiased squared maximum mean discrepancy with
the kernel (x y / dimensions + 1)^3, over whole sets instead of random subsets, so that it is the same every time.
Precision and recall are those of Kynkaanniemi et al. 2019 (arXiv:1904.06991), with the third nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NEIGHBOUR = 3
ROWS = 1024
"""Embeddings that are compared with all others at a time."""


def kernel_distance(made: np.ndarray, real: np.ndarray) -> float:
    """The kernel inception distance of two sets; about 0 for alike ones, and below it by chance.

    Args:
        made, real: float [N, dimensions], at least 2 each.
    """
    dimensions = made.shape[1]

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / dimensions + 1) ** 3

    def within(its: np.ndarray) -> float:
        total = sum(kernel(part, its).sum() for part in _parts(its))
        own = ((np.square(its).sum(axis=1) / dimensions + 1) ** 3).sum()
        return float((total - own) / (len(its) * (len(its) - 1)))

    one, other = made.astype(np.float64), real.astype(np.float64)
    between = sum(kernel(part, other).sum() for part in _parts(one)) / (len(one) * len(other))
    return within(one) + within(other) - 2 * float(between)


def precision_and_recall(made: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which embeddings of each set lie within the other: not farther from one of it than its third neighbour is.

    Args:
        made, real: float [N, dimensions], at least 2 each.
    Returns:
        bool [len(made)], whose mean is the precision, and bool [len(real)], whose mean is the recall.
    """
    one, other = made.astype(np.float64), real.astype(np.float64)
    return _within(one, other), _within(other, one)


def _within(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    nearest = min(NEIGHBOUR, len(others) - 1)  # the first of all is itself
    radii = _by_parts(others, lambda part: np.partition(_squares(part, others), nearest, axis=1)[:, nearest])
    return _by_parts(points, lambda part: np.asarray((_squares(part, others) <= radii).any(axis=1)))


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * one @ other.T
    return squares.clip(min=0)


def _parts(its: np.ndarray) -> list[np.ndarray]:
    return [its[start : start + ROWS] for start in range(0, len(its), ROWS)]


def _by_parts(its: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([function(part) for part in _parts(its)])
