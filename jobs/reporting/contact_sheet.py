"""What a person reads after a run: the closing summary and the contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image, ImageDraw, ImageFont

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.part_files import open_parts

if TYPE_CHECKING:
    from wanbatch.jobs.driver.run import Summary

STAGES = ("load", "text", "encode", "denoise", "decode", "image", "write")
FAILURES_SHOWN = 5
CAPTION_LINES = 3


def summary_text(summary: Summary) -> str:
    """The end of a run in a few lines: how it ended, where the output is, where the time went, what failed."""
    seconds = summary.seconds
    lines = [_headline(summary), f"  output    {summary.out}"]
    if summary.made_now:
        rate = summary.made_now / seconds["make"]
        busy = "" if summary.model_busy is None else f", the model busy {summary.model_busy:.0%} of the time"
        lines.append(f"  time      {_parts(seconds)}; {rate:.2f} pictures/s{busy}")
        lines.append(f"  stages    {_stage_text(stage_seconds(summary.out, summary.first_unit))}")
    if summary.quarantined:
        lines += ["  failed    " + ", ".join(f"{count} {name}" for name, count in summary.failures.items())]
        lines += [f"            {line}" for line in _failure_lines(summary.out, summary.quarantined)]
        lines.append(f"            wanbatch retry {summary.out}  makes them again once the cause is mended")
    if summary.dropped:
        lines.append(f"  dropped   {summary.dropped} pictures of units that were cut off; they are made again")
    if summary.pending:
        lines.append(f"  left      {summary.pending} pictures: run the same command again to go on")
    return "\n".join(lines)


def stage_seconds(out: str | Path, first_unit: int = 0) -> dict[str, float]:
    """Seconds of each stage, summed over the pictures of all units from one on."""
    columns = [f"{stage}_seconds" for stage in STAGES]
    parts = open_parts(out, "timings")
    if parts is None:
        return dict.fromkeys(STAGES, 0.0)
    table = parts.to_table(columns=columns, filter=pc.field("unit") >= first_unit)
    return {stage: pc.sum(table[column]).as_py() or 0.0 for stage, column in zip(STAGES, columns, strict=True)}


def contact_sheet(out: str | Path, target: Path, columns: int = 4, cell: int = 192, limit: int = 64) -> int:
    """Write a PNG with a folder's first pictures in the order of the manifest, each with what it was made from.

    columns: pictures side by side. cell: pixels of the longer side of each. Returns how many it shows.
    Raises UserError if there are none, or the file cannot be written.
    """
    parts = open_parts(out, "data")
    if parts is None:
        raise UserError(f"{out}: has no pictures in data/ to show")
    shown = list(_records(parts, limit))
    font = ImageFont.load_default(size=12)
    line, margin = 15, 12
    height = cell + CAPTION_LINES * line + margin
    sheet = Image.new(
        "RGB", (columns * (cell + margin) + margin, -(-len(shown) // columns) * height + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for place, record in enumerate(shown):
        left, top = margin + place % columns * (cell + margin), margin + place // columns * height
        whole = Image.open(io.BytesIO(record["image"]["bytes"]))
        picture = whole.resize(_within(whole.size, cell), Image.Resampling.NEAREST)
        sheet.paste(picture, (left + (cell - picture.width) // 2, top + cell - picture.height))
        for number, text in enumerate(_caption(record, font, cell)):
            draw.text((left, top + cell + 2 + number * line), text, fill="black", font=font)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target, "PNG")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}): choose another file") from error
    return len(shown)


def _headline(summary: Summary) -> str:
    state = "interrupted: " if summary.interrupted else ""
    state = "stopped, too many failed: " if summary.too_many_failures else state
    earlier = summary.made - summary.made_now
    before = f" ({earlier} by earlier runs)" if earlier else ""
    return f"{state}{summary.made} of {summary.rows} pictures made{before}, {summary.quarantined} failed"


def _parts(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def _stage_text(seconds: dict[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{name} {value:.2f} s ({value / total:.0%})" for name, value in seconds.items() if value > 0)


def _failure_lines(out: str, count: int) -> Iterator[str]:
    parts = open_parts(out, "failures")
    for failure in parts.head(FAILURES_SHOWN).to_pylist() if parts is not None else ():
        yield f"{failure['id']}: {failure['stage']}: {_one_line(failure['message'])}"
    if count > FAILURES_SHOWN:
        yield f"... all of them are in {out.rstrip('/')}/failures"


def _one_line(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _records(parts: ds.Dataset, limit: int) -> Iterator[dict[str, Any]]:
    """The first records by manifest row, with their images."""
    keys = parts.to_table(columns=["manifest_row", "variant", "id"])
    order = pc.sort_indices(keys, [("manifest_row", "ascending"), ("variant", "ascending")])[:limit]
    wanted = keys["id"].take(order)
    records = parts.to_table(filter=pc.field("id").isin(wanted)).to_pylist()
    by_id = {record["id"]: record for record in records}
    return (by_id[name] for name in wanted.to_pylist())


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
