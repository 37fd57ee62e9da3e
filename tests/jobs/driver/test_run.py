"""A manifest becomes a dataset: the real driver, worker and files, with a small model of random weights.

The worker is in this process; that of test_resume.py and its neighbours makes the same pictures on Ray.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from data_row_requests import data_row_request
from example_rows import MIXED_IDS
from job_making import commit_records, commits, decoded, log_events, pixel_hash, rows_by_id, table

from wanbatch.manifests.records import TIMING_SCHEMA
from wanbatch.pipeline.generate import Wan


def derived(seed: int, row_id: str, variant: int = 0) -> int:
    """The documented seed of a row that gives none."""
    digest = hashlib.blake2b(f"{seed}\0{row_id}\0{variant}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def test_exit_code_and_counts(mixed):
    summary = mixed.summary
    assert summary.exit_code == 0
    assert (summary.rows, summary.made, summary.made_now, summary.quarantined) == (15, 15, 15, 0)
    assert (summary.pending, summary.failures, summary.interrupted) == (0, {}, False)
    assert summary.seconds["total"] >= summary.seconds["make"] > 0


def test_layout(mixed):
    names = {str(path.relative_to(mixed.out)) for path in mixed.out.rglob("*") if path.is_file()}
    units = len(commit_records(mixed.out))
    assert units == 6  # four kinds by size and guidance, of which one has 12 pictures
    parts = {f"{kind}/part-{unit:05d}.parquet" for kind in ("data", "timings") for unit in range(units)}
    private = {f"_wanbatch/commits/{path.name}" for path in commits(mixed.out)}
    private |= {"_wanbatch/run.json", "_wanbatch/log.jsonl", "_wanbatch/source-sizes.parquet"}
    assert names - {"_wanbatch/lock"} == parts | private | {"README.md"}
    assert (mixed.out / "failures").is_dir()


def test_every_id_is_there_once(mixed):
    assert sorted(table(mixed.out, "data")["id"].to_pylist()) == sorted(MIXED_IDS)
    committed = [name for record in commit_records(mixed.out) for name in record["ids"]]
    assert sorted(committed) == sorted(MIXED_IDS)


def test_run_json_says_what_was_run(mixed, model_folder):
    noted = json.loads((mixed.out / "_wanbatch" / "run.json").read_text())
    assert noted["plan"]["rows"] == 15
    fingerprint = noted["fingerprint"]
    expected = {"seed": 9, "width": 32, "height": 32, "steps": 2, "guidance": 4.0, "shift": 3.0, "sampler": "unipc"}
    expected |= {"schedule": "linear", "sigmas": None}
    assert expected.items() <= fingerprint.items()
    assert {
        "model": str(model_folder),
        "device": "cpu",
        "precision": "fp32",
        "compile": False,
    }.items() <= fingerprint.items()


def test_settings_are_recorded_as_resolved(mixed, model_folder):
    rows = rows_by_id(mixed.out)
    expected = {
        "plain": {
            **{"prompt": "a red heart", "negative_prompt": "", "creativity": 1.0, "seed": derived(9, "plain")},
            **{"width": 32, "height": 32, "steps": 2, "guidance": 4.0, "shift": 3.0, "sampler": "unipc"},
            **{"schedule": "linear", "sigmas": None},
            **{"model": str(model_folder), "revision": None, "variant": 0, "manifest_row": 0, "sources": []},
        },
        "00000001": {"seed": 77, "manifest_row": 1},
        "wide-one": {"width": 96, "height": 32, "guidance": 1.0, "steps": 3, "creativity": 1.0},
        "i2i-keep": {"creativity": 0.0, "width": 32, "height": 32},
        "i2i-some": {"creativity": 0.35, "seed": 5},
        "i2i-most": {"creativity": 0.9, "sampler": "euler"},
        "i2i-default": {"creativity": 0.6, "width": 32, "height": 32},
        "turned": {"prompt": "", "sigmas": [1.0, 0.5, 0.2], "steps": 3, "shift": None, "schedule": None},
        "several-0": {"seed": 2**63 - 2, "variant": 0, "manifest_row": 8},
        "several-1": {"seed": 2**63 - 1, "variant": 1, "manifest_row": 8},
        "several-2": {"seed": 0, "variant": 2, "manifest_row": 8},
        "group": {"prompt": "a heart", "width": 64, "height": 32, "creativity": 0.5, "manifest_row": 10},
        "shifted-0": {
            "schedule": "beta",
            "sampler": "lcm",
            "shift": 1.0,
            "guidance": 2.5,
            "seed": derived(9, "shifted", 0),
        },
        "shifted-1": {"shift": 1.0, "guidance": 2.5, "seed": derived(9, "shifted", 1)},
    }
    for name, values in expected.items():
        assert {key: rows[name][key] for key in values} == values, name


def test_sources_are_recorded(mixed, sources):
    rows = rows_by_id(mixed.out)

    def used(name: str) -> list[tuple[str, float, str]]:
        return [(source["path"], source["weight"], source["sha256"]) for source in rows[name]["sources"]]

    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources.iterdir()}
    assert used("two") == [("square.png", 0.75, hashes["square.png"]), ("tall.jpg", 0.25, hashes["tall.jpg"])]
    names = ["wide.png", "square.png", "tall.jpg"]
    assert used("group") == [(n, w, hashes[n]) for n, w in zip(names, (0.25, 0.5, 0.25), strict=True)]


def test_passthrough_columns_of_jsonl(mixed):
    found = table(mixed.out, "data")
    assert (found.schema.field("note").type, found.schema.field("price").type) == (pa.string(), pa.float64())
    rows = rows_by_id(mixed.out)
    assert {name: (row["note"], row["price"]) for name, row in rows.items() if row["note"] or row["price"]} == {
        "plain": ("first", 1.5),
        "00000001": (None, 2.0),
        "group": ("of the group", None),
    }


def test_sha256_is_of_the_decoded_pixels(mixed):
    for name, row in rows_by_id(mixed.out).items():
        assert row["sha256"] == pixel_hash(row), name
        assert decoded(row).shape == (row["height"], row["width"], 3), name
        assert row["image"]["path"] == f"{name}.png"


def test_pictures_differ_where_they_should(mixed):
    hashes = {name: row["sha256"] for name, row in rows_by_id(mixed.out).items()}
    assert len(set(hashes.values())) == len(hashes)


def test_pixels_are_those_of_the_pipeline(mixed, model, sources):
    """Remade one by one from what the data rows say, without workers, manifest or plan."""
    rows = rows_by_id(mixed.out)
    wan = Wan.load(model)
    for name, row in rows.items():
        [result] = wan.generate([data_row_request(row, sources)])
        assert np.array_equal(result.pixels, decoded(row)), name


def test_timings_join_on_id(mixed):
    data, timings = table(mixed.out, "data"), table(mixed.out, "timings")
    assert timings.schema.equals(TIMING_SCHEMA)
    sourced = pc.greater(pc.list_value_length(data["sources"]), 0)
    data = data.select(["id", "steps", "creativity", "guidance"]).append_column("sourced", sourced)
    joined = data.join(timings.drop(["backends"]), "id", join_type="inner")
    assert joined.num_rows == 15
    for backends in timings["backends"].to_pylist():
        assert all(backends[stage] for stage in ("text", "encode", "denoise", "decode"))
    now = datetime.now(UTC)
    for row in joined.to_pylist():
        assert row["attempt"] == 1
        assert row["worker"]
        assert row["host"]
        assert row["device"] == "cpu"
        assert now - timedelta(hours=1) < row["started"] < now
        assert row["peak_memory_bytes"] > 1 << 20
        assert (row["encode_seconds"] > 0) == row["sourced"]
        assert min(row[f"{stage}_seconds"] for stage in ("text", "decode", "image")) > 0
        if row["creativity"] in (0.0, 1.0):
            assert row["steps_full"] == row["creativity"] * row["steps"]
        if row["id"] == "turned":  # levels 0.6, 0.2, 0 by a solver that evaluates twice but for the last step
            assert row["steps_full"] == 3
        assert row["blocks_full"] == row["steps_full"] * 3 * (2 if row["guidance"] > 1 else 1)
        assert (row["steps_cached"], row["blocks_cached"]) == (0, 0)


def test_log_names_each_unit(mixed):
    events = log_events(mixed.out, "unit")
    assert [event["unit"] for event in events] == list(range(6))
    assert sum(event["made"] for event in events) == 15
    assert all(event["busy_seconds"] > 0 for event in events)
    [finished] = log_events(mixed.out, "finished")
    numbers = {name: finished[name] for name in ("made", "pending", "rows", "quarantined", "exit_code", "failures")}
    assert numbers == {"made": 15, "pending": 0, "rows": 15, "quarantined": 0, "exit_code": 0, "failures": {}}
    assert finished["seconds"].keys() >= {"prepare", "start", "make", "total"}
    assert 0 < finished["slot_use"] <= 1


def test_the_log_says_what_a_start_took_step_by_step(mixed):
    """The steps of each process follow each other from its begin."""
    [start], [ready] = (log_events(mixed.out, name) for name in ("start", "worker_ready"))
    assert list(start["steps"])[:4] == ["process and imports", "manifest and model", "device", "folder"]
    assert list(start["steps"])[-2:] == ["worker's process", "worker"]
    assert next(iter(ready["steps"])) == "process and imports"
    assert {"device", "load"} < ready["steps"].keys()
    for event in (start, ready):
        began, told = (datetime.fromisoformat(event[name]) for name in ("process_began", "time"))
        assert 0 < sum(event["steps"].values()) < (told - began).total_seconds() + 0.1


def test_log_holds_no_prompts(mixed):
    assert "heart" not in (mixed.out / "_wanbatch" / "log.jsonl").read_text()


def test_card(mixed, model_folder):
    text = (mixed.out / "README.md").read_text()
    assert text.startswith("---\n")
    assert "path: data/*.parquet" in text
    assert f"15 images, made from a manifest by wanbatch with `{model_folder}`" in text
    assert "| `seed` | `9` |" in text
    for column in (*table(mixed.out, "data").column_names, "note", "price"):
        assert f"| `{column}` |" in text
