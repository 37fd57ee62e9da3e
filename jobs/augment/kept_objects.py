"""Where a picture's objects are, and how much each place may change so that they stay. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.outlines import covered
from wanbatch.jobs.augment.recipe import Objects

MOST_BOXES = 1000
"""Boxes that a row may have; a picture with more objects gets a map."""


def has_objects(original: Original, objects: Objects) -> bool:
    """Whether a picture has anything that is kept."""
    return bool(original.boxes) or (objects.keep == "masks" and original.mask is not None)


def boxes_of_row(original: Original, objects: Objects) -> list[dict[str, Any]] | None:
    """The `creativity_boxes` of a row that keeps its objects by their boxes; None: they need a map.

    Boxes are in shares of the source, with the margin, cut at its edges.
    """
    boxes = original.boxes or ()
    if objects.keep == "masks" or objects.feather or len(boxes) > MOST_BOXES:
        return None
    across, down = objects.margin / original.width, objects.margin / original.height
    found = []
    for box in boxes:
        left, top = max(0.0, box.left - across), max(0.0, box.top - down)
        right = min(1.0, box.left + box.width + across)
        bottom = min(1.0, box.top + box.height + down)
        left, top, right, bottom = (round(value, 6) for value in (left, top, right, bottom))
        if right > left and bottom > top:
            corners = [left, top, round(right - left, 6), round(bottom - top, 6)]
            found.append({"box": corners, "creativity": objects.inside})
    return found


def objects_of(original: Original, objects: Objects, mask: np.ndarray | None) -> np.ndarray:
    """The places that a picture's objects cover, bool [height, width].

    Args:
        original: the picture.
        objects: whether by boxes or by masks; an object without a mask is covered by its box.
        mask: the picture's own mask, of the same shape, if the dataset has one as a picture.
    Raises:
        UserError: An outline cannot be read.
    """
    if objects.keep == "masks" and mask is not None:
        return mask
    found = np.zeros((original.height, original.width), dtype=bool)
    for box in original.boxes or ():
        if objects.keep == "masks" and box.outline is not None:
            found |= covered(box.outline, original.width, original.height, original.name)
        else:
            rows = slice(_down(box.top, original.height), _up(box.top + box.height, original.height))
            found[rows, _down(box.left, original.width) : _up(box.left + box.width, original.width)] = True
    return found


def _down(share: float, side: int) -> int:
    return max(0, int(np.floor(share * side + 1e-6)))


def _up(share: float, side: int) -> int:
    return max(0, int(np.ceil(share * side - 1e-6)))


def grey_map(kept: np.ndarray, objects: Objects, around: float) -> np.ndarray:
    """A creativity map: `inside` in what is kept and its margin, `around` elsewhere, and between them the feather.

    Args:
        kept: bool [height, width].
        objects: margin and feather, in pixels of the source, and the creativity of what is kept.
        around: creativity elsewhere.
    Returns:
        uint8 [height, width], 255 for a creativity of 1.
    """
    half = (objects.feather + 1) // 2
    grown = _window_means(kept, objects.margin + half) > 0
    share = _window_means(grown, half)  # 1 where all of the window is in what was grown, so up to the margin
    return np.rint((around + (objects.inside - around) * share) * 255).astype(np.uint8)


def _window_means(places: np.ndarray, pixels: int) -> np.ndarray:
    """The share of places in the square of so many pixels to all sides, float64; beyond an edge is as at the edge."""
    sums = places.astype(np.int64)
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (pixels, pixels)
        counts = np.cumsum(np.pad(sums, widths, mode="edge"), axis=axis)
        counts = np.concatenate([np.zeros_like(np.take(counts, [0], axis=axis)), counts], axis=axis)
        first = np.arange(places.shape[axis])
        sums = np.take(counts, first + 2 * pixels + 1, axis=axis) - np.take(counts, first, axis=axis)
    return sums / (2 * pixels + 1) ** 2
