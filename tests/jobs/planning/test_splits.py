"""Splits of a folder in what a run plans: digests of rows are those of the same rows without them."""

from __future__ import annotations

import json

from command_line import invoke
from job_making import write_jsonl

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.preparation import prepare

ROWS = [{"id": "a", "prompt": "a cat", "seed": 1}, {"id": "b", "prompt": "a dog", "seed": 2}]


def test_a_split_plays_no_part_in_what_a_row_asks_for(tmp_path):
    write_jsonl(tmp_path / "m.jsonl", ROWS)
    (tmp_path / "shop").mkdir()
    for name, row in zip(("test", "train"), ROWS, strict=True):
        write_jsonl(tmp_path / f"shop/{name}.jsonl", [row])
    plain, split = (prepare(tmp_path / name, Settings())[0] for name in ("m.jsonl", "shop"))
    assert plain.images["digest"].to_pylist() == split.images["digest"].to_pylist()
    assert split.manifest.passthrough["split"].to_pylist() == ["test", "train"]


def test_one_split_by_flag_and_by_variable(tmp_path):
    (tmp_path / "shop").mkdir()
    for name, row in zip(("test", "train"), ROWS, strict=True):
        write_jsonl(tmp_path / f"shop/{name}.jsonl", [row])
    flags = invoke("plan", tmp_path / "shop", "--split", "train", "--json")
    variable = invoke("plan", tmp_path / "shop", "--json", env={"WANBATCH_SPLIT": "train"})
    for result in (flags, variable):
        assert json.loads(result.stdout)["rows"] == 1
    assert "has the splits test (1 file) and train (1 file)" in invoke("plan", tmp_path / "shop").stdout
