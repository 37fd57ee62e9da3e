"""Measures how far pictures of two folders are apart, a few at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from wanbatch.jobs.comparison.matching import Pair
from wanbatch.manifests.dataset.committed_parts import PART, POSITION, CommittedParts
from wanbatch.pipeline.evaluation.metrics import HIGHEST_PSNR, psnr_of

METRICS = ("psnr", "ssim", "lpips")
EQUAL = {"psnr": HIGHEST_PSNR, "ssim": 1.0, "lpips": 0.0}
"""What each metric is for equal pictures."""

SMALLEST = {"ssim": 11, "lpips": 32}
"""Pixels of the shorter side that a metric takes: the window of the one, what is left of a picture in the other."""

TOGETHER = 32
"""Pairs in memory at a time."""

Metrics = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Mapping[str, Sequence[float]]]
"""Metrics of pictures, uint8 [height, width, 3] by id, against those of the same ids, in their order."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of one pair.

    Attributes:
        pair: of what.
        values: metric -> value; none if the pictures cannot be compared.
        problem: why not, in words; None if they can.
    """

    pair: Pair
    values: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None


def metrics_of(names: Sequence[str]) -> Metrics:
    """What computes some metrics. PSNR alone needs no torch.

    Raises:
        UserError: A package or a weight file for one of them is missing.
    """
    if set(names) == {"psnr"}:
        return lambda ones, others: {"psnr": [psnr_of(ones[name], others[name]) for name in ones]}
    from wanbatch.pipeline.evaluation.quality import Meter

    meter = Meter(tuple(name for name in names if name != "psnr"))

    def measure(ones: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> Mapping[str, Sequence[float]]:
        found: dict[str, list[float]] = {name: [] for name in names}
        for name in ones:  # one by one, so that a picture's values do not depend on its neighbours
            measured = meter.measure({name: ones[name]}, {name: others[name]})
            for metric in names:
                found[metric].append(float(getattr(measured, metric)[0]))
        return found

    return measure


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two folders: its parts, and where each of its images is."""

    parts: CommittedParts
    part: Sequence[int]
    place: Sequence[int]

    @classmethod
    def of(cls, parts: CommittedParts, table: Any) -> Side:
        """The side whose images are the rows of a table of its data parts."""
        return cls(parts, table[PART].to_pylist(), table[POSITION].to_pylist())

    def pictures(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """The pictures of some rows by id, uint8 [height, width, 3]; damaged ones are left out."""
        wanted: dict[int, list[int]] = {}
        for row in rows:
            wanted.setdefault(self.part[row], []).append(self.place[row])
        found = self.parts.rows(wanted, lambda row: (row["id"], _decoded((row["image"] or {}).get("bytes"))))
        return {name: pixels for name, pixels in found if pixels is not None}


def _decoded(data: bytes | None) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data or b"")) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def measure(first: Side, second: Side, pairs: Sequence[Pair], names: Sequence[str]) -> Iterator[Measured]:
    """Measure pairs in their order; those of the same pixels are not read.

    Raises:
        UserError: A package or a weight file for a metric is missing. MachineryError: A folder cannot be read.
    """
    unequal = [pair for pair in pairs if not pair.same_pixels]
    metrics = metrics_of(names) if unequal else None
    for start in range(0, len(pairs), TOGETHER):
        batch = pairs[start : start + TOGETHER]
        read = [pair for pair in batch if not pair.same_pixels]
        ones = first.pictures([pair.first for pair in read]) if read else {}
        others = second.pictures([pair.second for pair in read]) if read else {}
        for pair in batch:
            yield _measured(pair, ones, others, metrics, names)


def _measured(
    pair: Pair,
    ones: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    metrics: Metrics | None,
    names: Sequence[str],
) -> Measured:
    if pair.same_pixels or metrics is None:
        return Measured(pair, {name: EQUAL[name] for name in names})
    one, other = ones.get(pair.id), others.get(pair.id)
    if one is None or other is None:
        return Measured(pair, problem=f"its file is damaged in the {'first' if one is None else 'second'} folder")
    if one.shape != other.shape:
        sizes = " and ".join(f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (one, other))
        return Measured(pair, problem=f"the sizes differ: {sizes}")
    for name, smallest in SMALLEST.items():
        if name in names and min(one.shape[:2]) < smallest:
            problem = f"it is {one.shape[1]}x{one.shape[0]}, and {name.upper()} takes {smallest} pixels or more"
            return Measured(pair, problem=problem)
    return Measured(pair, {name: values[0] for name, values in metrics({pair.id: one}, {pair.id: other}).items()})
