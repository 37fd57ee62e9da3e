"""The column `keywords`: given by a row or by the run, recorded with the image, and used to find it."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from job_making import write_jsonl
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import read_settings
from wanbatch.jobs.reporting.contact_sheet import contact_sheet

ROWS = [
    {"id": "own", "prompt": "a heart", "keywords": ["red", "round"]},
    {"id": "of-the-run", "prompt": "a star"},
    {"id": "none", "prompt": "a circle", "keywords": []},
]


def recorded(out) -> dict[str, list[str] | None]:
    """Id -> keywords, of all data parts; they have one schema."""
    parts = [pq.read_table(part) for part in sorted((out / "data").glob("*.parquet"))]
    assert len({str(part.schema) for part in parts}) == 1
    return {row["id"]: row["keywords"] for part in parts for row in part.select(["id", "keywords"]).to_pylist()}


def test_rows_and_run_give_keywords_and_a_sheet_shows_one(run_fast, settings, tmp_path, monkeypatch):
    manifest, out = write_jsonl(tmp_path / "m.jsonl", ROWS), tmp_path / "out"
    monkeypatch.setenv("WANBATCH_KEYWORDS", "batch, round")
    assert read_settings().keywords == ("batch", "round")
    ran = run_fast(manifest, out, settings(unit_rows=1, keywords=["batch", "round"]))
    assert ran.summary.made == 3
    assert recorded(out) == {"own": ["red", "round"], "of-the-run": ["batch", "round"], "none": []}
    sheet = tmp_path / "sheet.png"
    assert contact_sheet(out, sheet, columns=1, cell=64, keyword="round") == 2
    assert Image.open(sheet).height > Image.open(sheet).width
    assert contact_sheet(out, sheet, columns=1, cell=64) == 3
    with pytest.raises(UserError, match="no picture has the keyword 'blue'"):
        contact_sheet(out, sheet, keyword="blue")


def test_without_keywords_nothing_shows_that_there_is_such_a_column(run_fast, settings, tmp_path):
    manifest, out = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a heart"}]), tmp_path / "out"
    run_fast(manifest, out, settings())
    assert "keywords" not in pq.read_schema(next((out / "data").iterdir())).names
    run_json = json.loads((out / "_wanbatch" / "run.json").read_text())
    assert "keywords" not in run_json["fingerprint"]
    with pytest.raises(UserError, match="no picture has the keyword 'red'"):
        contact_sheet(out, tmp_path / "sheet.png", keyword="red")


@pytest.mark.slow
def test_keywords_change_no_digest_and_a_folder_keeps_the_column(run_fast, settings, tmp_path):
    rows = [{"id": "a", "prompt": "a heart", "keywords": ["x"]}]
    manifest, out = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out"
    run_fast(manifest, out, settings())
    write_jsonl(manifest, [{"id": "a", "prompt": "a heart"}, {"id": "b", "prompt": "b"}])
    ran = run_fast(manifest, out, settings())
    assert (ran.summary.made, ran.summary.made_now) == (2, 1)
    assert recorded(out) == {"a": ["x"], "b": None}


def test_more_than_a_hundred_are_refused(run_fast, settings, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a heart", "keywords": ["x"] * 101}])
    with pytest.raises(UserError, match=r"m\.jsonl:1: keywords is .*: must be a list of at most 100 names"):
        run_fast(manifest, tmp_path / "out", settings())
