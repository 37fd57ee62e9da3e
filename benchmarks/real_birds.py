"""What pictures of real recordings show: the folder that `examples/birds` ends in, read by the judge.

    python benchmarks/real_birds.py birds/made --out benchmarks/results/real-birds-NAME.json [--sheet docs/birds.png]

Rows are those of `examples/birds/collect.py`: every picture started from that of a dog. `a bird` is the share of all
recordings of a kind whose picture shows one of the small world's birds; a recording in which nothing was heard has no
picture, and so shows none. The sheet has all pictures, the recordings of birds first.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from circumstances import circumstances, print_result
from PIL import Image

from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.evaluation.attributes import FIELDS, NOUNS
from wanbatch.pipeline.evaluation.judge import Judge

BIRDS = {"bird", "chicken", "duck", "flamingo", "owl", "parrot", "penguin", "swan"}
KINDS = {"bird": "recordings of birds", "other": "other recordings"}
COLUMNS = 8
DATA, FAILURES = ("id", "audio_prompt", "image"), ("id", "error_class")


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--sheet", type=click.Path(path_type=Path))
def main(folder: Path, out: Path | None, sheet: Path | None) -> None:
    rows = _rows(folder)
    read_by = _read([row["pixels"] for row in rows if row["pixels"] is not None])
    for row in rows:
        row["shows"] = next(read_by) if row["pixels"] is not None else None
    found: dict[str, Any] = {}
    for kind, name in KINDS.items():
        these = [row for row in rows if row["id"].startswith(f"{kind}-")]
        birds = [row for row in these if row["shows"] in BIRDS]
        found[name] = {
            "recordings": len(these),
            "a bird": len(birds),
            "something else": sum(row["shows"] is not None for row in these) - len(birds),
            "no picture": dict(Counter(row["failed"] for row in these if row["failed"])),
        }
    pictures = [
        {field: row[field] for field in ("id", "prompt", "shows")} for row in rows if row["shows"] is not None
    ]
    said = (__doc__ or "").splitlines()[0]
    print_result({"what": said, **circumstances(("torch",)), "found": found, "pictures": pictures}, out)
    if sheet is not None:
        _sheet([row["pixels"] for row in rows if row["pixels"] is not None]).save(sheet)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of the run, those of birds first: their prompt and picture, or the class of their failure."""
    parts = CommittedParts.open(folder)
    data, failures = parts.table("data", DATA), parts.table("failures", FAILURES)
    rows = [
        {"id": row["id"], "prompt": row["audio_prompt"], "failed": None, "pixels": _pixels(row["image"]["bytes"])}
        for row in (data.to_pylist() if data is not None else [])
    ]
    for row in failures.to_pylist() if failures is not None else []:
        rows.append({"id": row["id"], "prompt": None, "failed": row["error_class"], "pixels": None})
    return sorted(rows, key=lambda row: row["id"])


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _read(pictures: list[np.ndarray]) -> Any:
    """The noun that the judge reads first in each picture."""
    read = Judge.load().read(torch.cat([to_model(pixels) for pixels in pictures]))
    return (NOUNS[number] if 0 <= number < len(NOUNS) else "" for number in read[:, FIELDS.index("first")].tolist())


def _sheet(pictures: list[np.ndarray]) -> Image.Image:
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (COLUMNS * width, math.ceil(len(pictures) / COLUMNS) * height), "white")
    for number, pixels in enumerate(pictures):
        sheet.paste(Image.fromarray(pixels), (number % COLUMNS * width, number // COLUMNS * height))
    return sheet


if __name__ == "__main__":
    main()
