"""Which pictures are rejected, and why: from what was measured to `rejected_by`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.near_copies import Fingerprint

BIN = 0.1
"""Bands are learnt for creativities that are at most so far apart."""

FEWEST = 8
"""Pictures that a band is learnt from at least."""

SMALLEST_DEVIATION = 0.003
"""Of distances; runs whose pictures are all alike would else reject the first one that differs."""


@dataclass(slots=True)
class Checked:
    """One picture and what was found of it; None: it could not be told, or was not asked.

    Attributes:
        id, manifest_row, variant, sha256: as `data/` has them.
        label: its class.
        creativity: as it was made with; None without a source.
        decodes: whether its file can be read.
        size_matches: whether it has the size that its row says.
        brightness, contrast, sharpness: as `Measures` has them.
        source_sharpness: of its source at its size, of blends the mean.
        source_distance: from its source, as `measures.distance` has it.
        fingerprint: what it looks like; not a column.
        source_moved: a source of its is held out by now, or in another class than its label says.
        near_held_out: it looks like a picture that is held out.
        exact_duplicate, near_duplicate: an earlier picture is the same, or looks the same.
        too_near, too_far: it is outside the band of its creativity.
        label_rank: how many classes the classifier finds more likely than its own.
        label_confidence: what the classifier gives its own class, 0 to 1.
        rejected_by: the names of the checks that reject it.
    """

    id: str
    manifest_row: int
    variant: int
    sha256: str
    label: str | None = None
    creativity: float | None = None
    decodes: bool = False
    size_matches: bool | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    source_sharpness: float | None = None
    source_distance: float | None = None
    fingerprint: Fingerprint | None = None
    source_moved: bool | None = None
    near_held_out: bool | None = None
    exact_duplicate: bool | None = None
    near_duplicate: bool | None = None
    too_near: bool | None = None
    too_far: bool | None = None
    label_rank: int | None = None
    label_confidence: float | None = None
    within_originals: bool | None = None
    rejected_by: list[str] = field(default_factory=list)


REASONS: dict[str, str] = {
    "undecodable": "their file cannot be read",
    "wrong_size": "they have another size than their row says",
    "black": "they are black",
    "flat": "they are of one colour",
    "blurred": "they are much less sharp than their source",
    "exact_duplicate": "an earlier picture has the same pixels",
    "near_duplicate": "an earlier picture looks the same",
    "too_near": "they are nearer to their source than others of their creativity",
    "too_far": "they are farther from their source than others of their creativity",
    "held_out_copy": "they look like a picture that is held out",
    "source_moved": "their source is held out or in another class by now",
    "wrong_class": "the classifier takes them for another class",
}
"""The names that stand in `rejected_by`, and what they mean."""


def learnt_bands(creativity: np.ndarray, distance: np.ndarray, tolerance: float) -> tuple[Band, ...]:
    """The distances that are usual for each creativity: the median, and so many deviations around it.

    Creativities are taken together by tenths; of fewer than `FEWEST` pictures nothing is learnt.

    Args:
        creativity: float64 [pictures], NaN without a source.
        distance: float64 [pictures], of each from its source; NaN where it is not known.
        tolerance: deviations; the deviation is 1.4826 times the median of the distances from the median.
    """
    known = ~(np.isnan(creativity) | np.isnan(distance))
    bins = np.minimum(np.floor(creativity[known] / BIN + 1e-9), round(1 / BIN) - 1).astype(np.int64)
    bands = []
    for number in np.unique(bins).tolist():
        its = distance[known][bins == number]
        if len(its) < FEWEST:
            continue
        middle = float(np.median(its))
        deviation = max(1.4826 * float(np.median(np.abs(its - middle))), SMALLEST_DEVIATION)
        least, most = middle - tolerance * deviation, middle + tolerance * deviation
        last = number == round(1 / BIN) - 1
        creativities = (round(number * BIN, 4), 1.0 if last else round((number + 1) * BIN - 1e-4, 4))
        bands.append(Band(creativity=creativities, distance=(max(0.0, round(least, 4)), min(1.0, round(most, 4)))))
    return tuple(bands)


def judge(one: Checked, checks: Checks, bands: Sequence[Band], usual_sharpness: float) -> None:
    """Fill in whether a picture is in its band, and `rejected_by`.

    Args:
        one: measured, and compared with the others.
        checks: from where on a picture is rejected.
        bands: of distances, given or learnt.
        usual_sharpness: of all pictures, which counts for those without a source.
    """
    _place_in_band(one, bands)
    one.rejected_by = [name for name, found in _findings(one, checks, usual_sharpness).items() if found]


def _findings(one: Checked, checks: Checks, usual_sharpness: float) -> Mapping[str, bool | None]:
    black = one.brightness is not None and one.brightness < checks.black
    flat = one.contrast is not None and one.contrast < checks.flat
    reference = usual_sharpness if one.source_sharpness is None else one.source_sharpness
    blurred = one.sharpness is not None and one.sharpness < checks.blur * reference
    return {
        "undecodable": not one.decodes,
        "wrong_size": one.size_matches is False,
        "black": black,
        "flat": flat and not black,
        "blurred": blurred and not flat and not black,
        "exact_duplicate": checks.duplicates != "none" and one.exact_duplicate,
        "near_duplicate": checks.duplicates == "near" and one.near_duplicate and not one.exact_duplicate,
        "too_near": one.too_near,
        "too_far": one.too_far,
        "held_out_copy": one.near_held_out,
        "source_moved": one.source_moved,
        "wrong_class": one.label_rank is not None and one.label_rank >= checks.top_k,
    }


def _place_in_band(one: Checked, bands: Sequence[Band]) -> None:
    one.too_near = one.too_far = None
    if one.source_distance is None or one.creativity is None:
        return
    for band in bands:
        if band.creativity[0] <= one.creativity <= band.creativity[1]:
            one.too_near = one.source_distance < band.distance[0]
            one.too_far = one.source_distance > band.distance[1]
            return


@dataclass(frozen=True, slots=True)
class ClassVerdict:
    """How many pictures of a class were made, and how many of them are rejected."""

    label: str | None
    made: int
    rejected: int


class Tally:
    """Counts pictures that are judged.

    Attributes:
        pictures, rejected: how many, and how many of them are rejected.
    """

    def __init__(self) -> None:
        self.pictures = self.rejected = 0
        self._reasons = Counter[str]()
        self._made, self._rejected = Counter[str | None](), Counter[str | None]()

    def add(self, one: Checked) -> None:
        """Count a picture."""
        self.pictures += 1
        self._made[one.label] += 1
        if one.rejected_by:
            self.rejected += 1
            self._rejected[one.label] += 1
            self._reasons.update(one.rejected_by)

    def by_class(self) -> tuple[ClassVerdict, ...]:
        """The classes by name, with their pictures."""
        return tuple(
            ClassVerdict(label, self._made[label], self._rejected[label]) for label in sorted(self._made, key=str)
        )

    def by_reason(self) -> dict[str, int]:
        """How many pictures each check rejects, the most first; a picture may be rejected by several."""
        return dict(sorted(self._reasons.items(), key=lambda item: (-item[1], item[0])))


def columns_of(one: Checked) -> dict[str, Any]:
    """What the sidecar has of a picture; the names are those of `Checked`."""
    return {name: getattr(one, name) for name in COLUMNS}


COLUMNS: dict[str, str] = {
    "id": "string", "manifest_row": "int64", "variant": "int32", "sha256": "string", "label": "string",
    "creativity": "double", "decodes": "bool", "size_matches": "bool", "brightness": "double", "contrast": "double",
    "sharpness": "double", "source_sharpness": "double", "source_distance": "double", "near_held_out": "bool",
    "exact_duplicate": "bool", "near_duplicate": "bool", "too_near": "bool", "too_far": "bool", "label_rank": "int32",
    "label_confidence": "double", "within_originals": "bool", "source_moved": "bool",
}  # fmt: skip
"""The columns of the sidecar before `rejected_by`, and their Arrow types."""
