"""A contact sheet: the first pictures of a dataset on one, each with what it was made from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image, ImageDraw

from wanbatch.errors import UserError
from wanbatch.jobs.reporting.caption_font import caption_font
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.part_files import open_parts
from wanbatch.manifests.dataset.rewrite import damage_is_to_be_repaired
from wanbatch.manifests.storage.backend import open_backend
from wanbatch.manifests.storage.user_files import write_file

CAPTION_LINES = 3
LINE_HEIGHT, MARGIN = 15, 12  # pixels


def contact_sheet(
    out: str | Path, target: Path, columns: int = 4, cell: int = 192, limit: int = 64, keyword: str = ""
) -> int:
    """Write a PNG with a folder's first pictures in the order of the manifest, each with what it was made from.

    Args:
        out: the output folder, a path or URL.
        target: the PNG to write; its folder is made.
        columns: pictures side by side.
        cell: pixels of the longer side of each picture.
        limit: pictures at most.
        keyword: only pictures with this one among their `keywords`; empty: all.

    Returns:
        How many pictures it shows.

    Raises:
        UserError: There are none, a part of the folder is damaged, or the file cannot be written.
        MachineryError: The folder cannot be read.
    """
    backend = open_backend(out)
    try:
        with damage_is_to_be_repaired(backend, "data"):
            parts = open_parts(out, "data")
            shown = [] if parts is None else first_records(parts, limit, keyword)
    except OSError as error:
        raise machinery_error(backend.root, error, reading=True) from error
    if parts is None:
        raise UserError(f"{out}: has no pictures in data/ to show")
    if not shown:
        raise UserError(f"{out}: no picture has the keyword {keyword!r}")
    sheet = _draw(shown, columns, cell)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_file(target, buffer.getvalue())
    return len(shown)


def first_records(parts: ds.Dataset, limit: int, keyword: str = "") -> list[dict[str, Any]]:
    """The first data rows in the order of the manifest, with their images; with a keyword, those that have it."""
    has_keywords = "keywords" in parts.schema.names
    keys = parts.to_table(columns=["manifest_row", "variant", "id", *(["keywords"] if has_keywords else [])])
    if keyword:
        words = keys["keywords"].to_pylist() if has_keywords else [None] * len(keys)
        keys = keys.filter(pa.array([keyword in (its or ()) for its in words], pa.bool_()))
    order = pc.sort_indices(keys, [("manifest_row", "ascending"), ("variant", "ascending")])[:limit]
    wanted = keys["id"].take(order)
    records = parts.to_table(filter=pc.field("id").isin(wanted)).to_pylist() if len(wanted) else []
    by_id = {record["id"]: record for record in records}
    return [by_id[name] for name in wanted.to_pylist()]


def _draw(records: Sequence[dict[str, Any]], columns: int, cell: int) -> Image.Image:
    """The sheet. Each picture stands at the bottom of its cell, with its caption below."""
    font = caption_font(12)
    width, height = cell + MARGIN, cell + CAPTION_LINES * LINE_HEIGHT + MARGIN
    size = (columns * width + MARGIN, -(-len(records) // columns) * height + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for index, record in enumerate(records):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        picture = _small(record["image"]["bytes"], cell)
        sheet.paste(picture, (left + (cell - picture.width) // 2, top + cell - picture.height))
        for line, text in enumerate(_caption(record, font, cell)):
            draw.text((left, top + cell + 2 + line * LINE_HEIGHT), text, fill="black", font=font)
    return sheet


def _small(data: bytes, cell: int) -> Image.Image:
    """A picture as large as its cell; a grey one in place of a file that is damaged, as a report says of it."""
    try:
        with Image.open(io.BytesIO(data)) as whole:
            return whole.resize(_within(whole.size, cell), Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError):
        return Image.new("RGB", (cell, cell), "lightgrey")


def _within(size: tuple[int, int], cell: int) -> tuple[int, int]:
    scale = cell / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _caption(record: dict[str, Any], font, width: int) -> list[str]:
    """The id and what the picture was made from, cut to the lines that there are."""
    text = record["prompt"] or ""
    if record["sources"]:
        names = " + ".join(Path(source["path"] or "?").stem for source in record["sources"])
        text = f"{names}, creativity {record['creativity']:g}: {text}"
    lines, current = [record["id"]], ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if font.getlength(longer) > width and current:
            lines.append(current)
            longer = word
        current = longer
    return [*lines, current][:CAPTION_LINES]
