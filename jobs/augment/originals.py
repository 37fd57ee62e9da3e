"""The pictures that a dataset has, as recipes see them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanbatch.jobs.augment.near_copies import Fingerprint
from wanbatch.jobs.augment.outlines import Outline


@dataclass(frozen=True, slots=True)
class Box:
    """The place of an object in its picture, in fractions of the picture's width and height from its upper left.

    outline: of the object itself, its polygons in the same fractions; None: the dataset has the box alone.
    """

    label: str
    left: float
    top: float
    width: float
    height: float
    outline: Outline | None = None


@dataclass(frozen=True, slots=True)
class Original:
    """One picture of a dataset.

    Attributes:
        id: its name in the dataset.
        root_id: the name of the picture that it descends from, if the dataset says that it was made from another;
            else its own.
        sha256: of its file, hex.
        label: its class, or None.
        split: the part of the dataset that it belongs to, or None.
        width, height: pixels, upright.
        columns: what templates, scores and `keep` may name.
        group: what must not be in two splits, such as a patient, or None.
        boxes: where its objects are; None: the dataset does not say.
        mask: the path of its mask, or None.
        location: the absolute path of its file, or None if it is in no file of its own.
        name: what messages call it.
        fingerprint: what it looks like, for the search for near-copies.
    """

    id: str
    root_id: str
    sha256: str
    label: str | None
    split: str | None
    width: int
    height: int
    name: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    boxes: tuple[Box, ...] | None = None
    mask: str | None = None
    location: str | None = None
    fingerprint: Fingerprint | None = None
