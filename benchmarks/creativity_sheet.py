"""Draws what creativity does, as a number and as a map, on the small model: the picture in docs/creativity.md.

    python benchmarks/creativity_sheet.py docs/creativity.png

The upper row asks for another background, the lower one for another object. From the left: the source, one creativity
for the whole picture, the map (black keeps, white changes most), and what it makes of the source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from creativity_maps import generate
from model_requests import request_of
from PIL import Image, ImageDraw, ImageFont

from wanbatch.pipeline.core.requests import CreativityMap, Request, SourceImage
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, find

SOURCE = Path(__file__).parents[1] / "examples/images/dog.png"
BOX = slice(16, 112)
NUMBERS = (0.5, 0.8, 0.95)
CELL, GAP, LINE = 128, 8, 16


@dataclass(frozen=True)
class Row:
    """A prompt, and creativity around the box and in it."""

    prompt: str
    around: float
    inside: float

    def map_of(self) -> CreativityMap:
        values = np.full((CELL, CELL), self.around, np.float32)
        values[BOX, BOX] = self.inside
        return CreativityMap(values)


ROWS = (
    Row("a large dog in the center in the snow", 1.0, 0.3),
    Row("a large cat in the center on a striped blue background", 0.0, 1.0),
)


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    info = find(TINY)
    wan = Wan.load(info, "cpu", slots=8)
    source = np.asarray(Image.open(SOURCE).convert("RGB"))
    sheet = Image.new("RGB", (6 * (CELL + GAP) + GAP, len(ROWS) * (CELL + LINE + GAP) + GAP), "white")
    for number, row in enumerate(ROWS):
        plain = request_of(info, prompt=row.prompt, seed=1, sources=(SourceImage("dog", source),))
        made = generate(wan, requests_of(row, plain))
        grey = (row.map_of().values * 255).astype(np.uint8)
        cells = [source, *made[:-1], np.stack([grey] * 3, axis=2), made[-1]]
        names = [
            "source",
            *(f"{value:g}" for value in NUMBERS),
            f"{row.around:g} around {row.inside:g}",
            "by the map",
        ]
        for column, (pixels, name) in enumerate(zip(cells, names, strict=True)):
            left, top = GAP + column * (CELL + GAP), GAP + number * (CELL + LINE + GAP)
            sheet.paste(Image.fromarray(pixels), (left, top))
            ImageDraw.Draw(sheet).text((left, top + CELL + 2), name, "black", ImageFont.load_default(size=12))
    sheet.save(out, optimize=True)


def requests_of(row: Row, plain: Request) -> list[Request]:
    """With one number each, then with the map."""
    numbers = [replace(plain, id=str(value), creativity=value) for value in NUMBERS]
    return [*numbers, replace(plain, id="map", creativity=max(row.around, row.inside), creativity_map=row.map_of())]


if __name__ == "__main__":
    main()
