"""A long manifest is taken for a good one after its first rows, so that what takes long may begin."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wanbatch.errors import ManifestError
from wanbatch.manifests.reading import validation
from wanbatch.manifests.reading.manifest import read_manifest

FIRST_ROWS = 20
GOOD = {"prompt": "a hill"}
LONG = FIRST_ROWS + 10


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """Shorter manifests are long ones."""
    monkeypatch.setattr(validation, "FIRST_ROWS", FIRST_ROWS)


def read(path, rows, **rules) -> list[str]:
    """What happened, in order; rows: by their number, where they are others than `GOOD`."""
    happened: list[str] = []
    lines = (json.dumps(rows.get(number, GOOD)) for number in range(LONG))
    path.write_text("\n".join(lines) + "\n")
    try:
        read_manifest(path, seems_right=lambda: happened.append("seems right"), **rules)
    except ManifestError as error:
        happened.append(str(error))
    return happened


def test_its_first_rows_are_right(tmp_path):
    assert read(tmp_path / "shop.jsonl", {}) == ["seems right"]


def test_a_row_further_on_is_wrong(tmp_path):
    seems, said = read(tmp_path / "shop.jsonl", {FIRST_ROWS + 5: {"prompt": "a hill", "steps": -1}})
    assert seems == "seems right"
    assert f"shop.jsonl:{FIRST_ROWS + 6}: steps" in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({7: {"prompt": "a hill", "steps": -1}}, "shop.jsonl:8: steps"),
        ({3: {"id": "one", **GOOD}, 5: {"id": "one", **GOOD}}, "one"),
    ],
    ids=["a value", "an id that is there twice"],
)
def test_one_of_its_first_rows_is_wrong(tmp_path, rows, said):
    (told,) = read(tmp_path / "shop.jsonl", rows)
    assert said in told


def test_its_model_cannot_make_one_of_them(tmp_path):
    def check(rows: pa.Table):
        return [(2, "is too large")]

    (told,) = read(tmp_path / "shop.jsonl", {}, check=check)
    assert "shop.jsonl:3: is too large" in told


def test_a_blend_group_goes_on_after_them(tmp_path):
    """Alone, its first member would be wrong."""
    member = {"blend_group": "pair", "image": "a.png"}
    (tmp_path / "a.png").touch()
    rows = {FIRST_ROWS - 1: {**member, "prompt": "a hill"}, FIRST_ROWS: member}
    assert read(tmp_path / "shop.jsonl", rows) == ["seems right"]


def test_a_short_manifest_and_one_of_parquet(tmp_path):
    happened: list[int] = []
    for count in (3, LONG):
        pq.write_table(pa.table({"prompt": ["a hill"] * count}), tmp_path / "shop.parquet")
        read_manifest(tmp_path / "shop.parquet", seems_right=lambda count=count: happened.append(count))
    assert happened == [LONG]
