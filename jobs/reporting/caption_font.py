"""The font of captions on sheets: one of the machine's with many alphabets, or the one that Pillow comes with."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf")
"""Fonts with accents and several alphabets, in the order of preference; Pillow's own has hardly more than ASCII."""


@lru_cache
def caption_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first of `FONTS` that this machine has, else Pillow's own. size: in pixels."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size=size)
