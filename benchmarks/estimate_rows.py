"""The rows of `estimates.py`: what a first run makes, and what is foreseen by it. Needs neither Ray nor torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SUBJECTS = ("a lighthouse", "an old bicycle", "a bowl of lemons", "a red fox", "a steam engine", "a paper lantern")
PLACES = ("on a cliff above the sea", "in a narrow street after rain", "on a wooden table", "in deep snow at dusk")

SIZES = {"random-5b": ((1280, 704), (704, 704)), "tiny": ((128, 128), (192, 128))}
"""The two sizes of each model's rows."""

STEPS: dict[str, tuple[dict[str, int], int, int]] = {"random-5b": ({}, 8, 30), "tiny": ({"steps": 10}, 2, 5)}
"""Of most rows, where they are not the model's own; of rows of few steps; of those of fewer than most."""


def prompt_of(number: int) -> str:
    """A subject at a place; they take turns."""
    return f"{SUBJECTS[number % len(SUBJECTS)]} {PLACES[number // len(SUBJECTS) % len(PLACES)]}"


def plain(dozens: int, model: str) -> Iterator[dict[str, Any]]:
    """Rows of one kind, as the model makes them unless told otherwise."""
    width, height = SIZES[model][0]
    for number in range(12 * dozens):
        row = {"id": f"p{number:04d}", "prompt": _numbered(number), "width": width, "height": height}
        yield {**row, **STEPS[model][0]}


def mixed(dozens: int, model: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of four kinds, half a dozen of each for each of the dozens. Their sources are written to the folder."""
    count = 6 * dozens
    first, (width, height) = SIZES[model]
    usual, least, fewer = STEPS[model]
    pixels = np.random.default_rng(0).integers(0, 256, (count, *first[::-1], 3), dtype=np.uint8)
    for number in range(count):
        prompt = {"prompt": _numbered(number)}
        few = {"steps": least, "guidance": 1, "width": first[0], "height": first[1]}
        yield {"id": f"few-{number}", **prompt, **few}
        yield {"id": f"small-{number}", **prompt, **usual, "width": width, "height": height}
        yield {"id": f"fewer-{number}", **prompt, "steps": fewer, "width": width, "height": height}
        name = f"source-{number}.png"
        Image.fromarray(pixels[number]).save(folder / name, compress_level=1)
        yield {"id": f"varied-{number}", **prompt, **usual, "image": name, "creativity": 0.3 + number % 3 * 0.3}


def written(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> Path:
    """The manifest of some rows."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _numbered(number: int) -> str:
    return f"{prompt_of(number)}, number {number}"
