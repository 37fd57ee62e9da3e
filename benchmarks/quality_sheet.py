"""Sheets to look at: unpicked pictures of the small model, and what few steps and step caches do to the same ones.

    python benchmarks/quality_sheet.py prompts docs/tiny-sheet.png
    python benchmarks/quality_sheet.py caches docs/quality-sheet.png

The prompts are drawn by a seed; none was left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from model_requests import request_of
from PIL import Image, ImageDraw

from wanbatch.pipeline.core.requests import Request, Result
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, find
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import write_prompts

COLUMNS = 8
CAPTION = 16  # pixels above a row
CACHES = (
    (50, "none"),
    (20, "taylor:interval=2"),
    (8, "none"),
    (8, "deepcache:interval=2,blocks=3"),
    (8, "deepcache:interval=2,blocks=5"),
    (8, "taylor:interval=2"),
    (4, "none"),
    (2, "none"),
)
"""Steps and step caches, a row each."""


@click.command(help=__doc__)
@click.argument("which", type=click.Choice(["prompts", "caches"]))
@click.argument("target", type=click.Path(path_type=Path))
def main(which: str, target: Path) -> None:
    info = find(TINY)
    wan = Wan.load(info, slots=COLUMNS)
    count, seed = (48, 2026) if which == "prompts" else (COLUMNS, 11)
    attributes = world.sample(count, torch.Generator().manual_seed(seed))
    requests = [
        request_of(info, id=str(number), prompt=prompt, seed=number)
        for number, prompt in enumerate(write_prompts(attributes, seed))
    ]
    if which == "prompts":
        made = _make(wan, requests)
        rows = [("", made[first : first + COLUMNS]) for first in range(0, count, COLUMNS)]
    else:
        rows = []
        for steps, cache in CACHES:
            wan.use_step_cache(cache)
            label = f"{steps} steps" + ("" if cache == "none" else f", {cache}")
            rows.append((label, _make(wan, [replace(one, steps=steps) for one in requests])))
    _sheet(rows).save(target, optimize=True)


def _make(wan: Wan, requests: list[Request]) -> list[np.ndarray]:
    """Pixels in the order of the requests."""
    made = {one.request.id: one.pixels for one in wan.generate(requests) if isinstance(one, Result)}
    return [made[request.id] for request in requests]


def _sheet(rows: list[tuple[str, list[np.ndarray]]]) -> Image.Image:
    """Rows of pictures of one size, each below its label if it has one."""
    height, width = rows[0][1][0].shape[:2]
    above = CAPTION if rows[0][0] else 0
    sheet = Image.new("RGB", (COLUMNS * (width + 2), len(rows) * (height + 2 + above)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, pictures) in enumerate(rows):
        top = number * (height + 2 + above)
        draw.text((2, top + 2), label, fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (column * (width + 2) + 1, top + above))
    return sheet


if __name__ == "__main__":
    main()
