"""Manifest files that cannot be read, and Parquet columns that do not fit: one message, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import GOOD

PARQUET = {
    "a column of the wrong type": (
        {"prompt": ["x"], "creativity": ["0.5"]},
        "shop.parquet: column 'creativity' is string: must be a number",
    ),
    "numbers as prompts": ({"prompt": [1, 2]}, "shop.parquet: column 'prompt' is int64: must be text"),
    "creativity": ({"image": ["a.png"] * 2, "creativity": [0.8, 1.3]}, "shop.parquet row 1: creativity is 1.3"),
    "NaN": ({"image": ["a.png"] * 2, "creativity": [0.8, float("nan")]}, "shop.parquet row 1: creativity is nan"),
    "duplicate ids": (
        {"prompt": ["x"] * 3, "id": ["a", "b", "a"]},
        "shop.parquet row 2: id 'a' is already at shop.parquet row 0: give each row its own",
    ),
    "sampler": (
        {"prompt": ["x"] * 2, "sampler": ["unipc", "magic"]},
        "shop.parquet row 1: sampler 'magic' is unknown: use one of",
    ),
    "schedule": (
        {"prompt": ["x"] * 2, "schedule": [None, "cosine"]},
        "shop.parquet row 1: schedule 'cosine' is unknown: use one of",
    ),
    "sigmas of text": ({"prompt": ["x"], "sigmas": [["1"]]}, "shop.parquet: column 'sigmas' is list<"),
    "sigmas that do not fall": (
        {"prompt": ["x"] * 2, "sigmas": [[1.0, 0.5], [0.5, 0.5]]},
        "shop.parquet row 1: sigmas is [0.5, 0.5]: must be a list of noise levels in (0, 1], each at least 0.00001",
    ),
    "creativity below the schedule": (
        {"image": ["a.png"] * 2, "creativity": [0.9, 0.1], "steps": [2, 2]},
        "shop.parquet row 1: creativity 0.1 is below the last noise level of 2 steps with the linear schedule",
    ),
    "style": (
        {"prompt": ["x"], "style": ["ink"]},
        "shop.parquet row 0: style: adapter 'ink' is unknown, as none is registered",
    ),
    "empty": ({"prompt": pa.array([], pa.string())}, "shop.parquet: has no rows"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet(run_bad, tmp_path, case):
    columns, expected = PARQUET[case]
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    [message] = run_bad(Path("shop.parquet"))
    assert message.startswith(expected)


def test_no_such_manifest(run_bad, tmp_path):
    [message] = run_bad(Path("nowhere.jsonl"))
    assert message.startswith("nowhere.jsonl: ")


@pytest.mark.parametrize("name", ["shop.xlsx.old", "shop"])
def test_not_a_manifest(run_bad, tmp_path, name):
    (tmp_path / name).write_text("prompt\na heart\n")
    [message] = run_bad(Path(name))
    assert message.startswith(f"{name}: ")
    assert ".jsonl" in message


def test_a_damaged_parquet_file(run_bad, tmp_path):
    pq.write_table(pa.table({"prompt": ["a heart"] * 1000}), tmp_path / "shop.parquet")
    data = (tmp_path / "shop.parquet").read_bytes()
    (tmp_path / "shop.parquet").write_bytes(data[:-100])
    [message] = run_bad(Path("shop.parquet"))
    assert "shop.parquet: cannot be read as Parquet" in message


def test_a_manifest_that_may_not_be_read(run_bad, manifest):
    if os.geteuid() == 0:
        path = manifest(GOOD).parent / "folder.jsonl"
        path.mkdir()  # the superuser may read anything but a folder
    else:
        path = manifest(GOOD)
        path.chmod(0)
    [message] = run_bad(path)
    assert str(path) in message
