"""Small copies of pictures, inside the page, with a limit to the bytes that they take together."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 224
"""Pixels of the longer side, at most."""

QUALITY = 70


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of a picture.

    Attributes:
        uri: a `data:` address with the whole file.
        width, height: pixels.
    """

    uri: str
    width: int
    height: int


def thumbnail(picture: Image.Image, side: int = SIDE) -> Thumbnail:
    """A picture no larger than `side` pixels, as WEBP; smaller ones keep their size."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=2)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(f"data:image/webp;base64,{encoded}", small.width, small.height)


def thumbnail_of_file(data: bytes, side: int = SIDE) -> Thumbnail | None:
    """The small copy of a picture file that wanbatch wrote; None if it is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft("RGB", (side * 2, side * 2))  # of a JPEG, only as much as is needed
            return thumbnail(picture, side)
    except (OSError, ValueError, SyntaxError):
        return None
