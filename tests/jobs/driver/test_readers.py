"""The folder of a run as other libraries read it: datasets, pandas, polars, duckdb."""

from __future__ import annotations

import json
import subprocess
import sys

import duckdb
import pandas as pd
import polars as pl
from job_making import environment, rows_by_id, table

LOAD_DATASET = """
import json, sys
from datasets import Image, Value, load_dataset

images = load_dataset(sys.argv[1], split="train")
assert isinstance(images.features["image"], Image), images.features
rows = [{**row, "image": [row["image"].mode, *row["image"].size]} for row in images]
print(json.dumps({"columns": images.column_names, "rows": rows}))
"""


def test_datasets_library_reads_the_folder(mixed, tmp_path):
    environ = environment(HF_HOME=str(tmp_path / "home"), HF_DATASETS_OFFLINE="1")
    arguments = [sys.executable, "-c", LOAD_DATASET, str(mixed.out)]
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["columns"] == table(mixed.out, "data").column_names
    assert len(loaded["rows"]) == 15
    ours = rows_by_id(mixed.out)
    for row in loaded["rows"]:
        assert row == {**ours[row["id"]], "image": ["RGB", row["width"], row["height"]]}


def test_pandas_reads_the_parts(mixed):
    frame = pd.concat([pd.read_parquet(part) for part in sorted((mixed.out / "data").glob("*.parquet"))])
    _check_settings({row["id"]: row for row in frame.to_dict("records")}, mixed.out)


def test_polars_reads_the_parts(mixed):
    frame = pl.read_parquet(mixed.out / "data" / "*.parquet")
    _check_settings({row["id"]: row for row in frame.to_dicts()}, mixed.out)


def test_duckdb_reads_and_joins_the_parts(mixed):
    query = """
        select d.id, d.seed, d.creativity, d.width, d.sha256, octet_length(d.image.bytes) as size,
               t.denoise_seconds
        from read_parquet(?) d join read_parquet(?) t using (id)
    """
    parts = [str(mixed.out / kind / "*.parquet") for kind in ("data", "timings")]
    result = duckdb.connect().execute(query, parts)
    names = [column[0] for column in result.description]
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in result.fetchall()}
    ours = rows_by_id(mixed.out)
    assert rows.keys() == ours.keys()
    for name, row in rows.items():
        assert row["size"] == len(ours[name]["image"]["bytes"])
        assert {key: row[key] for key in ("seed", "creativity", "width", "sha256")} == {
            key: ours[name][key] for key in ("seed", "creativity", "width", "sha256")
        }


def _check_settings(rows: dict[str, dict], out) -> None:
    ours = rows_by_id(out)
    assert rows.keys() == ours.keys()
    for name, row in rows.items():
        for key in ("prompt", "creativity", "seed", "steps", "guidance", "sampler", "width", "sha256"):
            assert row[key] == ours[name][key], (name, key)
        assert bytes(row["image"]["bytes"]) == ours[name]["image"]["bytes"]
