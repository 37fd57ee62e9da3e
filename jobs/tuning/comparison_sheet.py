"""A sheet with the same pictures as several settings make them, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wanbatch.errors import UserError

CELL, MARGIN, LINE = 192, 12, 15
TITLE_LINES, CAPTION_LINES = 4, 1


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """Pictures by id, uint8 [height, width, 3], and what stands above them."""

    title: str
    pictures: Mapping[str, np.ndarray]
    notes: str = ""


def side_by_side(columns: Sequence[Column], captions: Mapping[str, str], path: Path) -> None:
    """Write a PNG with a row for each id, in the captions' order. Raises UserError if it cannot be written."""
    font = ImageFont.load_default(size=12)
    heights = [CAPTION_LINES * LINE + _row_height(columns, name) for name in captions]
    top = MARGIN + TITLE_LINES * LINE
    sheet = Image.new("RGB", (len(columns) * (CELL + MARGIN) + MARGIN, top + sum(heights) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        left = MARGIN + place * (CELL + MARGIN)
        for number, text in enumerate(_wrapped(f"{column.title}\n{column.notes}", font)[:TITLE_LINES]):
            draw.text((left, MARGIN // 2 + number * LINE), text, fill="black", font=font)
    for (name, caption), height in zip(captions.items(), heights, strict=True):
        draw.text((MARGIN, top), " ".join(caption.split())[:140], fill="black", font=font)
        for place, column in enumerate(columns):
            picture = _scaled(column.pictures[name])
            sheet.paste(picture, (MARGIN + place * (CELL + MARGIN), top + CAPTION_LINES * LINE))
        top += height
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}): choose another file") from error


def _row_height(columns: Sequence[Column], name: str) -> int:
    return _scaled(columns[0].pictures[name]).height + MARGIN


def _scaled(pixels: np.ndarray) -> Image.Image:
    """As wide as a cell, or as high if that is less."""
    height, width = pixels.shape[:2]
    scale = CELL / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    sampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize(size, sampling)


def _wrapped(text: str, font) -> list[str]:
    """Lines no wider than a cell; a word that is wider is broken."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        current = ""
        for letter in paragraph:
            if font.getlength(current + letter) > CELL:
                head, space, tail = current.rpartition(" ")
                lines.append(head if space else current)
                current = tail if space else ""
            current += letter
        lines.append(current)
    return lines
