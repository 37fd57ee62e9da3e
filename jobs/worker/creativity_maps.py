"""Creativity maps of planned images, from boxes or from a picture in grey."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from wanbatch.errors import RowError
from wanbatch.jobs.planning.units import Image
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import CreativityMap, fitted_part

SAME_SHAPE = 0.01  # how much the shapes of a map and its source may differ, of the source's


class CreativityMaps:
    """The creativity maps of one task's images; each distinct picture is read and fitted once."""

    def __init__(self, loader: SourceLoader):
        self._loader = loader
        self._known: dict[tuple, np.ndarray] = {}

    def of(self, image: Image, size: tuple[int, int]) -> CreativityMap | None:
        """The map of an image at its size; None: it has none.

        Args:
            image: as it was planned.
            size: width and height of its first source, as that was before it was fitted.

        Raises:
            RowError: A box reaches over the edge of the source, or the map's picture cannot be read or has another
                shape.
        """
        if image.creativity_boxes:
            values = _of_boxes(image, size)
        elif image.map_source is not None:
            key = (image.map_source.key, size, image.width, image.height)
            if key not in self._known:
                self._known[key] = _of_picture(image, image.map_source, size, self._loader)
            values = self._known[key]
        else:
            return None
        return CreativityMap(
            values, bool(image.keep_pixels), image.map_softness or 0.0, image.keep_pixels_up_to or 0.0
        )


def as_shown(image: Image, shown: CreativityMap | None) -> Image:
    """An image with the highest creativity of its map's picture, which was not read when the image was planned.

    Args:
        image: as it was planned.
        shown: its map.
    """
    if shown is None or image.map_source is None:
        return image
    highest = round(float(shown.values.max()), 4)
    said: dict[str, Any] = {"creativity": highest, "starting_level": highest}
    return replace(image, **said)


def _of_boxes(image: Image, size: tuple[int, int]) -> np.ndarray:
    """float32 [height, width]. What a box touches of a pixel counts as the whole."""
    left, top, right, bottom = fitted_part(*size, image.width, image.height)
    across, down = image.width / (right - left), image.height / (bottom - top)
    values = np.full((image.height, image.width), image.creativity, dtype=np.float32)
    for index, one in enumerate(image.creativity_boxes):
        x, y, width, height = _in_pixels(one["box"], size, index)
        columns = slice(max(0, math.floor((x - left) * across)), max(0, math.ceil((x + width - left) * across)))
        rows = slice(max(0, math.floor((y - top) * down)), max(0, math.ceil((y + height - top) * down)))
        values[rows, columns] = one["creativity"]
    return values


def _in_pixels(box: list[float], size: tuple[int, int], index: int) -> tuple[float, float, float, float]:
    x, y, width, height = box
    if max(box) <= 1:
        return x * size[0], y * size[1], width * size[0], height * size[1]
    if x + width > size[0] + 0.5 or y + height > size[1] + 0.5:
        message = (
            f"creativity_boxes[{index}].box {box} reaches over the edge of its source of {size[0]}x{size[1]} pixels"
        )
        raise RowError("source", "bad_box", f"{message}: cut it")
    return x, y, width, height


def _of_picture(image: Image, source: Source, size: tuple[int, int], loader: SourceLoader) -> np.ndarray:
    """float32 [height, width]: the mean of the picture's channels, cut as the source is."""
    pixels = loader.load(source).pixels
    rows, columns = pixels.shape[:2]
    if abs(columns * size[1] - rows * size[0]) > SAME_SHAPE * columns * size[1]:
        message = f"{source.name}: the map has {columns}x{rows} pixels and its source {size[0]}x{size[1]}"
        raise RowError("source", "map_shape", f"{message}: give a map of the same shape")
    grey = PillowImage.fromarray(pixels.mean(axis=2, dtype=np.float32) / 255)
    part = fitted_part(columns, rows, image.width, image.height)
    fitted = grey.resize((image.width, image.height), PillowImage.Resampling.BOX, box=part)
    return np.asarray(fitted, dtype=np.float32).clip(0, 1)
