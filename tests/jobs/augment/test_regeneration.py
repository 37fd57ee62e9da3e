"""Rejected pictures are made again from another seed; what was rejected stays, and it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from augment_making import RECIPE, folder_by_class, made_from, output_folder, png, rows_of
from command_line import invoke
from manifest_making import timing
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.augment.checking import check_folder
from wanbatch.jobs.augment.checks_settings import Checks
from wanbatch.jobs.augment.regeneration import name_again, regenerate, rows_again, to_make_again
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import data_table

SIZE = 64


def record_of(number: int, row: dict, good: bool):
    source = Path(row["image"])
    pixels = np.asarray(Image.open(source).convert("RGB")).astype(int)
    noise = np.random.default_rng(row["seed"]).integers(-30, 30, pixels.shape)
    image = (pixels + noise).clip(0, 255) if good else np.zeros_like(pixels)
    return made_from(row["id"], number, source, png(image.astype(np.uint8)), SIZE, row["image"])


def columns_of(rows: list[dict]) -> pa.Table:
    return pa.table({"label": [row["label"] for row in rows], "regeneration": [row["regeneration"] for row in rows]})


@pytest.fixture
def out(tmp_path) -> Path:
    """The pictures of the smallest recipe, of which three are black."""
    folder_by_class(tmp_path / "set", {"train/disc": 3, "train/box": 2})
    Path("recipe.toml").write_text(RECIPE)
    invoke("augment", "recipe.toml", "--out", "rows.jsonl")
    rows = rows_of(Path("rows.jsonl"))
    made = [record_of(number, row, number not in (2, 5, 11)) for number, row in enumerate(rows)]
    return output_folder(tmp_path / "out", tmp_path / "rows.jsonl", made, columns_of(rows), (0,))


def fake_run(good_from: int):
    """A run that makes new rows; pictures are good from a regeneration on."""
    asked: list[list[dict]] = []

    def run(manifest, out, settings):
        rows = rows_of(manifest)
        there = {name for part in (Path(out) / "data").iterdir() for name in pq.read_table(part)["id"].to_pylist()}
        new = [(number, row) for number, row in enumerate(rows) if row["id"] not in there]
        asked.append([row for _, row in new])
        records = [record_of(number, row, row["regeneration"] >= good_from) for number, row in new]
        unit = 10 + len(asked)
        with OutputFolder.open(out, {"model": "tiny"}, {}) as folder:
            table = data_table(records, columns_of([row for _, row in new]))
            folder.publish(write_attempt(out, unit, "a", table, [timing(one.id, unit) for one in records], []))

    return run, asked


def check(out: Path):
    return check_folder(out, Checks())


def test_rejected_pictures_are_made_again_until_they_pass(out):
    before = rows_of(Path("rows.jsonl"))
    run, asked = fake_run(good_from=2)
    regenerate(out, check(out), 5, lambda: check(out), run)
    assert [len(rows) for rows in asked] == [3, 3]
    after = rows_of(Path("rows.jsonl"))
    assert after[: len(before)] == before
    again = after[len(before) :]
    assert [row["regeneration"] for row in again] == [1, 1, 1, 2, 2, 2]
    assert len({row["seed"] for row in after}) == len(after)
    rejected = to_make_again(out)
    assert rejected == {before[2]["id"], before[5]["id"], before[11]["id"], *(row["id"] for row in again[:3])}
    made = invoke("augment", "recipe.toml", "--out", "rows.jsonl", "--json")
    assert made.exit_code == 0, made.output
    assert '"new_rows": 0' in made.stdout
    assert sorted(row["id"] for row in rows_of(Path("rows.jsonl"))) == sorted(row["id"] for row in after)


def test_it_ends_after_so_many_times(out):
    run, asked = fake_run(good_from=9)
    report = regenerate(out, check(out), 2, lambda: check(out), run)
    assert [len(rows) for rows in asked] == [3, 3]
    assert report.rejected == 9
    assert rows_again(rows_of(Path("rows.jsonl")), to_make_again(out), 2) == []


def test_names_and_folders_of_other_manifests(out):
    assert name_again("a-b-3", 1) == "a-b.r1-3"
    assert name_again("a-b.r1-3", 2) == "a-b.r2-3"
    Path("rows.jsonl").write_text('{"prompt": "mine"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl: was written by no recipe, so its rows are not made again"):
        regenerate(out, check(out), 1, lambda: check(out), fake_run(1)[0])
