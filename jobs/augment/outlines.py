"""Outlines of objects, as polygons or run lengths, and the places of a picture that they cover. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from wanbatch.counting import number_of
from wanbatch.errors import UserError


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of an object.

    Attributes:
        polygons: each as x, y, x, y, ...; what any of them covers belongs to the object.
        runs: instead of polygons, a run-length encoded mask as COCO has it: `size` [rows, columns] and `counts`, a
            list of numbers.
    """

    polygons: tuple[tuple[float, ...], ...] = ()
    runs: Mapping[str, Any] | None = None

    def scaled(self, across: float, down: float) -> Outline:
        """The same with the polygons' coordinates multiplied."""
        factors = (across, down)
        polygons = (tuple(value * factors[i % 2] for i, value in enumerate(one)) for one in self.polygons)
        return replace(self, polygons=tuple(polygons))


def polygons_of(given: Sequence[Any]) -> Outline:
    """An outline of polygons. Raises ValueError or TypeError if one of them is none."""
    polygons = tuple(tuple(map(float, one)) for one in given)
    for one in polygons:
        if len(one) < 6 or len(one) % 2 or not np.isfinite(one).all():
            raise ValueError(f"a polygon of {number_of(len(one), 'numbers')}")
    return Outline(polygons)


def outline_of_coco(given: Any) -> Outline | None:
    """What COCO calls `segmentation`; None: there is none. Raises ValueError or TypeError if it is neither form."""
    if not given:
        return None
    if isinstance(given, list):
        return polygons_of(given)
    rows, columns = map(int, given["size"])
    told = given["counts"]
    counts = _counts_in_text(told) if isinstance(told, str) else [int(count) for count in told]
    if min(counts, default=0) < 0 or sum(counts) != rows * columns:
        raise ValueError("counts that do not add up to its size")
    return Outline(runs={"size": [rows, columns], "counts": counts})


def covered(outline: Outline, width: int, height: int, name: str) -> np.ndarray:
    """The places that an outline covers, bool [height, width].

    Args:
        outline: its polygons in fractions of the picture.
        width, height: of the picture, in pixels.
        name: of the picture, for messages.
    Raises:
        UserError: Run lengths are of another size.
    """
    if outline.runs is not None:
        return _decoded(outline.runs, width, height, name)
    drawn = Image.new("L", (width, height))
    draw = ImageDraw.Draw(drawn)
    for polygon in outline.scaled(width, height).polygons:
        draw.polygon([value - 0.5 for value in polygon], fill=1, outline=1)  # Pillow counts from the pixels' centres
    return np.asarray(drawn) > 0


def _decoded(runs: Mapping[str, Any], width: int, height: int, name: str) -> np.ndarray:
    """A mask in run lengths: how many places are outside, then inside, and so on, down one column after the other."""
    if runs["size"] != [height, width]:
        told = "x".join(map(str, runs["size"][::-1]))
        raise UserError(f"{name}: has {width}x{height} pixels and a mask of {told}: mend size in its segmentation")
    inside = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(inside, runs["counts"]).reshape(width, height).T


def _counts_in_text(text: str) -> list[int]:
    """Run lengths as COCO writes them in text: 5 bits a character, each count from the third on less the one before
    the last. Raises ValueError for text that is none."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"counts with {character!r} in it")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) and 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
