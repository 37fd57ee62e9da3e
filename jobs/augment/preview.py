"""`wanbatch augment --preview`: a few rows of a recipe, made and laid side by side with their sources and maps."""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from PIL import Image, ImageDraw, ImageFont

from wanbatch.errors import UserError
from wanbatch.jobs.augment.augment import Augmentation
from wanbatch.jobs.augment.drawing import Child
from wanbatch.jobs.augment.draws import uniform
from wanbatch.jobs.augment.making import make_pictures
from wanbatch.jobs.augment.writing import write_rows
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.reporting.caption_font import caption_font
from wanbatch.manifests.columns import MAPS
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.atomic_files import make_folder

CELL, GAP, LINES, LINE = 160, 10, 3, 15  # pixels; lines of a caption
ACROSS = 3


def chosen(children: Sequence[Child], count: int) -> list[Child]:
    """A few rows, as many of each class as can be, the same ones each time."""
    pools: defaultdict[tuple[str, str], list[Child]] = defaultdict(list)
    for child in sorted(children, key=lambda one: uniform(["preview", one.id])):
        pools[child.first.split or "", child.first.label or ""].append(child)
    turns = chain.from_iterable(zip_longest(*(pools[pool] for pool in sorted(pools))))
    return [child for child in turns if child is not None][:count]


def preview(planned: Augmentation, count: int, target: Path, sheet: Path, settings: Settings) -> int:
    """Make a few rows and draw a sheet of them; nothing but the sheet is kept.

    Args:
        planned: the recipe's rows.
        count: how many of them.
        target: the manifest that they are of; what is made stands beside it meanwhile.
        sheet: the PNG to write.
        settings: of the run.
    Returns:
        How many pictures it shows.
    Raises:
        UserError: There are no rows, or the sheet cannot be written.
        WanbatchError: whatever `run` raises.
    """
    rows = chosen(planned.children, count)
    if not rows:
        raise UserError(f"{planned.dataset}: there is no new row to show")
    with _folder_beside(target) as folder:
        written = write_rows(planned, Path(folder) / "rows.jsonl", rows)
        make_pictures(written, Path(folder) / "out", settings)
        table = ds.dataset(Path(folder) / "out/data", format="parquet").to_table(columns=["id", "image"])
        made = {row["id"]: row["image"]["bytes"] for row in table.to_pylist()}
        maps = {row["id"]: (row, Path(folder)) for row in written.rows if _has_map(row)}
        drawn = _draw(planned, [child for child in rows if child.id in made], made, maps)
    try:
        drawn.save(sheet, "PNG")
    except OSError as error:
        raise UserError(f"{sheet}: cannot be written ({error.strerror or error}): choose another file") from error
    return len(made)


def _folder_beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside a manifest until it is left. Raises UserError if none can be made there."""
    try:
        make_folder(target.absolute().parent)
        return tempfile.TemporaryDirectory(prefix=f"{target.stem}-preview-", dir=target.absolute().parent)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}): choose another file") from error


def _has_map(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in MAPS)


def map_picture(row: Mapping[str, Any], folder: Path, size: tuple[int, int]) -> Image.Image:
    """The creativity map of a row as a picture: black keeps, white changes most.

    Args:
        row: of the manifest, with boxes or a map.
        folder: of the manifest.
        size: width and height of its source; its boxes are in shares of it.
    """
    if "creativity_map" in row:
        return Image.open(folder / row["creativity_map"]).convert("L")
    drawn = Image.new("L", size, round(255 * row["creativity"]))
    for one in row["creativity_boxes"]:
        left, top, width, height = one["box"]
        corners = (left * size[0], top * size[1], (left + width) * size[0] - 1, (top + height) * size[1] - 1)
        ImageDraw.Draw(drawn).rectangle(corners, fill=round(255 * one["creativity"]))
    return drawn


def _draw(
    planned: Augmentation,
    rows: Sequence[Child],
    made: dict[str, bytes],
    maps: Mapping[str, tuple[Mapping[str, Any], Path]],
) -> Image.Image:
    """Each row as its source, its map if any row has one, what became of it, and a caption."""
    font = caption_font(12)
    cells = 3 if maps else 2
    width, height = cells * CELL + (cells + 1) * GAP, CELL + LINES * LINE + 2 * GAP
    sheet = Image.new("RGB", (ACROSS * width, -(-len(rows) // ACROSS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    loaded = planned.loaded
    with SourceLoader(loaded.root, allow_http=True, fence=loaded.fence) as loader:
        for index, child in enumerate(rows):
            left, top = index % ACROSS * width + GAP, index // ACROSS * height + GAP
            source = loader.load(loaded.sources[child.first.sha256]).pixels
            shown = {0: Image.fromarray(np.ascontiguousarray(source))}
            shown[cells - 1] = Image.open(io.BytesIO(made[child.id]))
            if child.id in maps:
                shown[1] = map_picture(*maps[child.id], shown[0].size)
            for number, picture in shown.items():
                picture.thumbnail((CELL, CELL))
                sheet.paste(picture, (left + number * (CELL + GAP), top))
            for line, text in enumerate(_caption(child)):
                draw.text(
                    (left, top + CELL + 2 + line * LINE), _cut(text, font, width - 2 * GAP), fill="black", font=font
                )
    return sheet


def _caption(child: Child) -> list[str]:
    others = f" + {len(child.parents) - 1} more" if len(child.parents) > 1 else ""
    return [child.id, f"{child.first.name}{others}, creativity {child.creativity:g}", child.prompt]


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a text as there is room for, in pixels."""
    while font.getlength(text) > width:
        text = text[:-2].rstrip("…") + "…"
    return text
