"""Makes datasets and recipes for the tests of `wanbatch.jobs.augment`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from job_making import picture
from manifest_making import failure, record, timing
from PIL import Image

from wanbatch.jobs.augment.near_copies import Fingerprint, fingerprint_of
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.recipe import Recipe
from wanbatch.jobs.augment.writing import Written
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import Record, UsedSource, data_table

RECIPE = """dataset = "set"              # set/train/disc/*.png, set/test/box/*.png, ...
split = "train"
template = "a {label}"
creativity = [0.3, 0.6]
fill = 12                    # rows so that every class has 12 with its originals
"""
"""The smallest recipe of the documents."""


def folder_by_class(folder: Path, counts: Mapping[str, int], first_seed: int = 0, size: int = 64) -> Path:
    """Pictures in `folder`, all different. counts: path of a class below it -> how many."""
    seed = first_seed
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(folder / name / f"{index}.png", size, size, seed=seed)
            seed += 1
    return folder


def recipe_of(**changes: Any) -> Recipe:
    """A recipe that names a dataset which nobody reads."""
    return Recipe.model_validate(
        {"dataset": "set", "split": "train", "template": "a {label}", "creativity": [0.3, 0.6], **changes}
    )


def original(
    number: int, label: str | None = "disc", split: str | None = "train", columns: Mapping[str, Any] | None = None
) -> Original:
    """An original that is nowhere. number: another one for each."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    values = {"label": label, **(columns or {})} if label is not None else dict(columns or {})
    name = f"{split}/{label}/{number}.png"
    print_ = Fingerprint(int(sha256[:16], 16), bytes.fromhex(sha256) * 6)
    return Original(str(number), str(number), sha256, label, split, 64, 64, name, values, fingerprint=print_)


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL manifest."""
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def look_of(path: Path) -> Fingerprint:
    """The fingerprint of a picture's file."""
    return fingerprint_of(np.asarray(Image.open(path).convert("RGB")))


def output_folder(
    where: Path,
    manifest: Path,
    records: Sequence[Record],
    columns: pa.Table,
    cuts: Sequence[int],
    later: Collection[str] = (),
) -> Path:
    """An output folder as a run leaves it, without a run.

    Args:
        where: of the folder.
        manifest: that it notes.
        records: its pictures.
        columns: their passthrough columns, one row a picture.
        cuts: where its parts begin; part n holds unit 3n.
        later: which columns of `columns.LATER` it has.
    """
    with OutputFolder.open(where, {"model": "tiny"}, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}, columns.schema))
        settings = Settings().model_dump(mode="json")
        folder.set_plan({"rows": len(records), "manifest": str(manifest), "digest": "", "settings": settings})
        for number, (start, stop) in enumerate(pairwise([*cuts, len(records)])):
            its = records[start:stop]
            table = data_table(its, columns.slice(start, stop - start), later)
            folder.publish(
                write_attempt(where, 3 * number, "a", table, [timing(one.id, 3 * number) for one in its], [])
            )
        folder.settle_card()
    return where


def fill_folder(out: Path, manifest: Path, failed: int = 0, only: int | None = None) -> None:
    """An output folder as a run of a recipe's manifest leaves it, with a picture of one colour for each row.

    Args:
        out: of the folder.
        manifest: that it is of; JSONL.
        failed: so many of its first rows could not be made.
        only: so many rows were made before the run was stopped; None: all.
    """
    rows = rows_of(manifest)
    with OutputFolder.open(out, {"model": "tiny"}, {}) as folder:
        columns = pa.table({"label": pa.array([], pa.string())})
        folder.keep_card(CardContent("tiny", None, {}, columns.schema))
        settings = Settings().model_dump(mode="json")
        folder.set_plan({"rows": len(rows), "manifest": str(manifest.absolute()), "digest": "", "settings": settings})
        made, names = rows[failed:only], [row["id"] for row in rows[failed:only]]
        if not made:
            return
        records = [
            record(name, number, png(np.full((8, 8, 3), number, np.uint8))) for number, name in enumerate(names)
        ]
        table = data_table(records, pa.table({"label": [row["label"] for row in made]}))
        failures = [failure(row["id"], 0, "missing_image") for row in rows[:failed]]
        folder.publish(write_attempt(out, 0, "a", table, [timing(name, 0) for name in names], failures))
        folder.settle_card()


def made_from(name: str, number: int, source: Path, image: bytes, size: int, shown: str) -> Record:
    """A picture that was made from one source. shown: the source's path as the manifest has it."""
    used = UsedSource(shown, 1.0, hashlib.sha256(source.read_bytes()).hexdigest())
    made = replace(record(name, number, image), width=size, height=size, sources=(used,), creativity=0.3)
    return replace(made, sha256=hashlib.sha256(image).hexdigest())


def png(pixels: np.ndarray) -> bytes:
    """A picture as a file. pixels: uint8 [rows, columns, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def made_red(written: Written, out: Path, settings: Settings) -> None:
    """In place of `make_pictures`: a red picture for each row of a manifest."""
    red = png(np.full((64, 64, 3), (255, 0, 0), np.uint8))
    (out / "data").mkdir(parents=True)
    rows = [{"id": row["id"], "image": {"bytes": red, "path": "x.png"}} for row in written.rows]
    pq.write_table(pa.Table.from_pylist(rows), out / "data/part-00000.parquet")


def nothing_made(written: Written, out: Path, settings: Settings) -> Summary:
    """In place of `make_pictures`: a run that finds everything made."""
    rows = len(written.rows)
    return Summary(str(out), rows, made=rows, quarantined=0, failures={}, made_now=0, seconds={}, interrupted=False)
