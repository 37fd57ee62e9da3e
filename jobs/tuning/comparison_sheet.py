"""A sheet with the same images as several settings make them, side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wanbatch.jobs.reporting.caption_font import caption_font
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.tuning.result import TuningResult, score_text
from wanbatch.manifests.storage.user_files import write_file
from wanbatch.pipeline.evaluation.metrics import psnr_of
from wanbatch.pipeline.evaluation.quality import Pictures

CELL, MARGIN, LINE = 192, 12, 15  # pixels
TITLE_LINES, CAPTION_LINES = 4, 1
NEIGHBOURS = 2  # of the chosen settings on the frontier


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column of a sheet.

    Attributes:
        title: What stands above it.
        pictures: Pixels by id, uint8 [height, width, 3].
        notes: What stands below the title.
    """

    title: str
    pictures: Mapping[str, np.ndarray]
    notes: str = ""


def comparison(
    result: TuningResult, references: Pictures, make: Callable[[Candidate], Pictures]
) -> tuple[list[Column], dict[str, str]]:
    """Put the reference, the default, the chosen settings and their neighbours on the frontier beside each other.

    Args:
        result: What tuning found.
        references: Pixels of the references by id.
        make: Makes the sample with a candidate.

    Returns:
        The columns, and captions by id; the images that the chosen settings change most come first.
    """
    index = next(i for i, trial in enumerate(result.frontier) if trial.candidate == result.chosen.candidate)
    others = [i for i in range(len(result.frontier)) if i != index]
    others.sort(key=lambda other: abs(other - index))
    named = [("default: ", result.default), ("chosen: ", result.chosen)]
    named += [("", result.frontier[other]) for other in others[:NEIGHBOURS]]
    columns = [Column(f"reference: {result.reference}", references)]
    for name, trial in named:
        notes = f"{result.speedup(trial):.1f} x, {score_text(trial.score)}"
        columns.append(Column(f"{name}{trial.candidate}", make(trial.candidate), notes))
    chosen = columns[2].pictures
    psnr = {name: psnr_of(chosen[name], reference) for name, reference in references.items()}
    prompts = {request.id: request.prompt for request in result.sample.requests}
    ids = sorted(psnr, key=lambda name: psnr[name])
    return columns, {name: f"{psnr[name]:.1f} dB  {name}: {prompts[name]}" for name in ids}


def write_sheet(columns: Sequence[Column], captions: Mapping[str, str], path: Path) -> None:
    """Write a PNG with a row for each id, in the captions' order.

    Raises:
        UserError: The file cannot be written.
    """
    font = caption_font(12)
    heights = [CAPTION_LINES * LINE + _row_height(columns, name) for name in captions]
    top = MARGIN + TITLE_LINES * LINE
    sheet = Image.new("RGB", (len(columns) * (CELL + MARGIN) + MARGIN, top + sum(heights) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + index * (CELL + MARGIN) for index in range(len(columns))]
    for left, column in zip(lefts, columns, strict=True):
        for number, text in enumerate(_wrapped(f"{column.title}\n{column.notes}", font)[:TITLE_LINES]):
            draw.text((left, MARGIN // 2 + number * LINE), text, fill="black", font=font)
    for (name, caption), height in zip(captions.items(), heights, strict=True):
        draw.text((MARGIN, top), " ".join(caption.split())[:140], fill="black", font=font)
        for left, column in zip(lefts, columns, strict=True):
            sheet.paste(_scaled(column.pictures[name]), (left, top + CAPTION_LINES * LINE))
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_file(path, buffer.getvalue())


def _row_height(columns: Sequence[Column], name: str) -> int:
    return _scaled(columns[0].pictures[name]).height + MARGIN


def _scaled(pixels: np.ndarray) -> Image.Image:
    """Scale to the width of a cell, or to its height if that is less."""
    height, width = pixels.shape[:2]
    scale = CELL / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    sampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize(size, sampling)


def _wrapped(text: str, font) -> list[str]:
    """Break text into lines no wider than a cell; a word that is wider is broken."""
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
