"""Sizes that training pictures are brought to: multiples of what the model takes, of about one area."""

from __future__ import annotations

import math

from PIL import Image

Size = tuple[int, int]
"""(width, height) in pixels."""


def bucket(width: int, height: int, multiple: int, area: int) -> Size:
    """The size of about `area` pixels, in multiples, whose shape is nearest to a picture's.

    Args:
        width, height: Of the picture.
        multiple: Of both sides.
        area: In pixels.
    """
    columns = max(1, round(math.sqrt(area * width / height) / multiple))
    rows = max(1, round(area / (columns * multiple) / multiple))
    return columns * multiple, rows * multiple


def fitted(picture: Image.Image, size: Size, filter_of: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """A picture scaled to cover a size, and cut at both ends of the longer side.

    Args:
        picture: Of any size.
        size: (width, height) of the result.
        filter_of: By which it is scaled.
    """
    width, height = size
    scale = max(width / picture.width, height / picture.height)
    scaled = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    if scaled != picture.size:
        picture = picture.resize(scaled, filter_of)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))
