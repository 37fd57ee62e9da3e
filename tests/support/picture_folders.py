"""Output folders with marked pictures of their own, made without a run: for tests of what reads such folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from manifest_making import failure, record, timing

from wanbatch.manifests.columns import ALWAYS
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.digital_source import GENERATED
from wanbatch.manifests.records import Record, data_table

MARK = OriginMark(GENERATED, "wanbatch 0.1.0")
ODD_IDS = ["cat", "Cat", "a.b", "a_b", "..hidden", "__dunder", "-dash", "con", "x" * 128, "caf.e" + "y" * 120]
"""Ids that a manifest may have and file names may not, or not together on every system."""

FINGERPRINT = {"model": "tiny", "revision": None, "seed": 0}


def pixels_of(name: str, size: int = 32) -> np.ndarray:
    """Smooth colours that no other name has, uint8 [size, size, 3]."""
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    y, x = np.mgrid[:size, :size]
    return np.stack([start % 251 + x, start % 241 + y, start % 239 + x + y], axis=-1).astype(np.uint8)


def marked_record(name: str, number: int, format: str = "png", mark: OriginMark = MARK) -> Record:
    pixels = pixels_of(name)
    how, sha256 = ImageFormat(format), hashlib.sha256(pixels.tobytes()).hexdigest()
    made = record(name, number, how.encode(pixels, mark.metadata(sha256)))
    return replace(
        made, sha256=sha256, suffix=how.suffix, sources=(), is_synthetic=True, wanbatch_version="0.1.0", evaluations=4
    )


def fill(
    out: Path,
    names: Sequence[str],
    failed: Sequence[str] = (),
    rows: int | None = None,
    format: str = "png",
    passthrough: pa.Table | None = None,
    unit_rows: int = 4,
    with_sources: bool = False,
) -> Path:
    """Fill an output folder, or go on with one, with a picture for each name. Returns it.

    rows: planned in all; default: all are made or failed. passthrough: one row for each name.
    """
    with OutputFolder.open(out, FINGERPRINT, {"wanbatch": "0.1.0"}) as folder:
        before = len(folder.committed().where)
        plan = {"rows": before + len(names) + len(failed) if rows is None else rows, "manifest": "/m.jsonl"}
        folder.set_plan({**plan, "digest": "d", "settings": {}})
        schema = None if passthrough is None else passthrough.schema
        folder.keep_card(CardContent("tiny", None, {"seed": 0}, schema, ALWAYS))
        for first in range(0, len(names), unit_rows):
            its = names[first : first + unit_rows]
            made = [marked_record(name, before + first + i, format) for i, name in enumerate(its)]
            if with_sources:
                made = [replace(one, sources=record(one.id).sources) for one in made]
            own = None if passthrough is None else passthrough.slice(first, len(its))
            _publish(folder, data_table(made, own, ALWAYS), its, ())
        if failed:
            _publish(folder, None, (), failed)
        folder.settle_card()
    return out


def _publish(folder: OutputFolder, data: pa.Table | None, names: Sequence[str], failed: Sequence[str]) -> None:
    unit = folder.committed().next_unit
    timings, failures = [timing(name, unit) for name in names], [failure(name, unit) for name in failed]
    folder.publish(write_attempt(folder.url, unit, "try", data, timings, failures))
