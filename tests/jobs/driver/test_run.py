"""A manifest becomes a dataset: the real driver, Ray, workers and files, with a small model of random weights."""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from example_rows import MIXED_IDS
from job_making import commits, decoded, environment, log_events, pixel_hash, rows_by_id, table, write_jsonl
from PIL import Image, ImageOps

from wanbatch.jobs.reporting.contact_sheet import contact_sheet
from wanbatch.manifests.records import FAILURE_SCHEMA, TIMING_SCHEMA
from wanbatch.pipeline.core.requests import Request, SourceImage, fit
from wanbatch.pipeline.generate import Wan

STAGES = ("load", "text", "encode", "denoise", "decode", "image", "write")


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
    units = len(commits(mixed.out))
    assert units == 6  # four kinds by size and guidance, of which one has 12 pictures
    parts = {f"{kind}/part-{unit:05d}.parquet" for kind in ("data", "timings") for unit in range(units)}
    private = {f"_wanbatch/commits/{unit:05d}.json" for unit in range(units)}
    private |= {"_wanbatch/run.json", "_wanbatch/log.jsonl"}
    assert names - {"_wanbatch/lock"} == parts | private | {"README.md"}
    assert (mixed.out / "failures").is_dir()


def test_every_id_is_there_once(mixed):
    assert sorted(table(mixed.out, "data")["id"].to_pylist()) == sorted(MIXED_IDS)
    committed = [name for commit in commits(mixed.out) for name in json.loads(commit.read_text())["ids"]]
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


def _request(row: dict, folder) -> Request:
    """The request that a data row was made from, its sources read by Pillow alone."""
    loaded = []
    for source in row["sources"]:
        image = ImageOps.exif_transpose(Image.open(folder / source["path"])).convert("RGB")
        pixels = fit(np.asarray(image), row["width"], row["height"])
        loaded.append(SourceImage(source["path"] + str(pixels.shape), pixels, source["weight"]))
    names = ("id", "prompt", "negative_prompt", "creativity", "seed", "width", "height", "steps")
    names += ("guidance", "shift", "sampler", "schedule", "sigmas")
    return Request(sources=tuple(loaded), **{name: row[name] for name in names})


def test_pixels_are_those_of_the_pipeline(mixed, model, sources):
    """Remade one by one from what the data rows say, without workers, manifest or plan."""
    rows = rows_by_id(mixed.out)
    wan = Wan.load(model)
    for name, row in rows.items():
        [result] = wan.generate([_request(row, sources)])
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
    assert (finished["made"], finished["pending"]) == (15, 0)


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


# ---- a Parquet manifest with other columns

ROWS = 300


def _wide_table() -> pa.Table:
    """Columns of many types that wanbatch does not know, with nulls in each."""
    numbers = range(ROWS)

    def some(make, kind: pa.DataType) -> pa.Array:
        return pa.array([None if number % 7 == 3 else make(number) for number in numbers], kind)

    moment = datetime(2024, 2, 29, 23, 59, 59, 123456)
    return pa.table(
        {
            "id": [f"item.{number}" for number in numbers],
            "prompt": pa.array([f"a {'red' if number % 2 else 'green'} star" for number in numbers]),
            "label": some(lambda n: n % 5, pa.int8()),
            "big": some(lambda n: 2**63 - 1 - n, pa.int64()),
            "unsigned": some(lambda n: 2**64 - 1 - n, pa.uint64()),
            "ratio": some(lambda n: n / 3, pa.float32()),
            "flag": some(lambda n: n % 2 == 0, pa.bool_()),
            "name": some(lambda n: f"naïve 名 {n}\n\t\0", pa.string()),
            "long": some(lambda n: "x" * n, pa.large_string()),
            "raw": some(lambda n: bytes([n % 256, 0, 255]), pa.binary()),
            "boxes": some(lambda n: [[n, n + 1], [], None, [None, 5]], pa.list_(pa.list_(pa.int32()))),
            "facts": some(
                lambda n: {"a": n, "b": {"c": [f"{n}", None]}},
                pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.string()))]))]),
            ),
            "when": some(lambda n: moment + timedelta(seconds=n), pa.timestamp("us")),
            "when_utc": some(lambda n: moment + timedelta(days=n), pa.timestamp("ns", tz="Europe/Zurich")),
            "day": some(lambda n: moment.date() + timedelta(days=n), pa.date32()),
            "money": some(lambda n: Decimal(n) / 100, pa.decimal128(12, 2)),
            "nothing": pa.nulls(ROWS),
            "kind": some(lambda n: "ab"[n % 2], pa.string()).dictionary_encode(),
            "pairs": some(lambda n: [("k", n)], pa.map_(pa.string(), pa.int64())),
            "vector": some(lambda n: [n / 2, 0.0], pa.list_(pa.float64(), 2)),
        }
    )


@pytest.fixture(scope="session")
def wide(run_here, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    pq.write_table(_wide_table(), folder / "items.parquet", row_group_size=77)
    return run_here(folder / "items.parquet", folder / "out", settings(unit_rows=100))


def test_passthrough_columns_of_parquet_stay_identical(wide):
    assert wide.summary.exit_code == 0
    given = pq.read_table(wide.manifest)
    columns = [name for name in given.column_names if name not in ("id", "prompt")]
    made = table(wide.out, "data").sort_by("manifest_row")
    assert made["id"].to_pylist() == given["id"].to_pylist()
    assert made.column_names[-len(columns) :] == columns
    for name in columns:
        assert made.schema.field(name).type == given.schema.field(name).type, name
        assert made[name].combine_chunks().equals(given[name].combine_chunks()), name


def test_stage_seconds_add_up_to_the_busy_time(wide):
    """Over units that take a while, where the fixed costs of a unit do not show; in most, since processes wait."""
    timings = table(wide.out, "timings").to_pylist()
    events = {event["unit"]: event["busy_seconds"] for event in log_events(wide.out, "unit")}
    long = {unit: busy for unit, busy in events.items() if busy > 0.3}
    assert long, f"no unit was long enough to tell: {events}"
    accounted = {
        unit: sum(row[f"{stage}_seconds"] for row in timings if row["unit"] == unit for stage in STAGES)
        for unit in long
    }
    assert statistics.median(accounted[unit] / long[unit] for unit in long) == pytest.approx(1, rel=0.1)


# ---- rows that cannot be made


def test_bad_rows_are_quarantined_and_the_others_made(faulty):
    assert faulty.summary.exit_code == 3
    assert sorted(rows_by_id(faulty.out)) == ["good-0", "good-1", "good-2"]
    assert table(faulty.out, "failures").schema.equals(FAILURE_SCHEMA)
    failures = rows_by_id(faulty.out, "failures")
    found = {name: (row["stage"], row["error_class"]) for name, row in failures.items()}
    assert found == {
        "absent": ("source", "missing_image"),
        "cut": ("source", "bad_image"),
        "html": ("source", "bad_image"),
        "blend-absent": ("source", "missing_image"),
        "raise-1": ("generate", "error"),
        "late-1": ("generate", "error"),
        "endless": ("decode", "nan"),
    }


def test_failures_say_what_happened(faulty):
    failures = rows_by_id(faulty.out, "failures")
    assert failures["absent"]["message"] == "nowhere.png does not exist"
    assert "truncated.png cannot be decoded" in failures["cut"]["message"]
    assert failures["html"]["message"] == "page.png is not a PNG, JPEG or WEBP image"
    assert "ValueError: no picture of raise-1" in failures["raise-1"]["message"]
    assert "NaN or infinity" in failures["endless"]["message"]
    assert {row["attempts"] for row in failures.values()} == {1}
    rows = {"absent": 1, "cut": 2, "html": 3, "raise-1": 5, "late-1": 7, "endless": 8}
    assert {name: failures[name]["manifest_row"] for name in rows} == rows


def test_counts_of_a_run_with_failures(faulty):
    summary = faulty.summary
    assert (summary.rows, summary.made, summary.quarantined, summary.pending) == (10, 3, 7, 0)
    assert summary.failures == {"bad_image": 2, "error": 2, "missing_image": 2, "nan": 1}
    card = (faulty.out / "README.md").read_text()
    assert "7 rows could not be made (2 bad_image, 2 error, 2 missing_image, 1 nan)" in card


def test_neighbours_of_failures_have_their_usual_pixels(faulty, model, sources):
    rows = rows_by_id(faulty.out)
    wan = Wan.load(model)
    for name, row in rows.items():
        [result] = wan.generate([_request(row, sources)])
        assert np.array_equal(result.pixels, decoded(row)), name


def test_a_run_of_failures_alone_leaves_a_whole_folder(run_here, settings, sources, tmp_path):
    """No part of data at all; the folder still has its card, its status and its exit code."""
    manifest = write_jsonl(sources / "hopeless.jsonl", [{"image": "nowhere.png"}, {"image": "page.png"}])
    ran = run_here(manifest, tmp_path / "out", settings())
    assert (ran.summary.exit_code, ran.summary.made, ran.summary.quarantined) == (3, 0, 2)
    assert not list((ran.out / "data").iterdir())
    assert sorted(rows_by_id(ran.out, "failures")) == ["00000000", "00000001"]
    assert "0 images" in (ran.out / "README.md").read_text()


# ---- formats


@pytest.mark.parametrize(("name", "suffix", "kind"), [("webp", ".webp", "WEBP"), ("jpeg", ".jpg", "JPEG")])
def test_pictures_in_other_formats(run_here, settings, mixed, sources, tmp_path, name, suffix, kind):
    """The same pixels are made; the hash is of these, also where the file has lost some."""
    chosen = settings(unit_rows=4, seed=9, format=name)
    ran = run_here(mixed.manifest, tmp_path / "out", chosen)
    png, rows = rows_by_id(mixed.out), rows_by_id(ran.out)
    assert rows.keys() == png.keys()
    for key, row in rows.items():
        assert row["image"]["path"] == f"{key}{suffix}"
        assert row["sha256"] == png[key]["sha256"]
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.format, image.mode) == (kind, "RGB")
        error = np.abs(np.asarray(image).astype(int) - decoded(png[key]))
        assert (error.max() == 0) == (name == "webp")
        assert error.mean() < 6
    assert f"| `format` | `{name}` |" in (ran.out / "README.md").read_text()
    assert contact_sheet(ran.out, tmp_path / "sheet.png") == 15
    loaded = load_dataset(str(ran.out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (png[loaded[0]["id"]]["width"], png[loaded[0]["id"]]["height"])


@pytest.mark.slow
@pytest.mark.timeout(900)  # a compiler on a busy machine
def test_compiled_in_workers(run_here, settings, tmp_path):
    """Warmed up before the first unit, and reported; the pictures differ by rounding only."""
    rows = [{"id": name, "prompt": "a heart", "seed": number} for number, name in enumerate("abc")]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    chosen = settings(compile="always", compile_cache=tmp_path / "code")
    ran, plain = run_here(manifest, tmp_path / "out", chosen), run_here(manifest, tmp_path / "plain", settings())
    [ready] = log_events(ran.out, "worker_ready")
    assert ready["warm_up_seconds"] > 0.5
    assert ran.summary.seconds["start"] > ran.summary.seconds["warm_up"] > 0.5
    assert "warm_up" not in plain.summary.seconds
    backends = rows_by_id(ran.out, "timings")["a"]["backends"]
    assert (backends["denoise"], backends["text"]) == ("compiled-float32", "eager-float32")
    assert any(path.is_file() for path in (tmp_path / "code").rglob("*"))
    compiled, eager = rows_by_id(ran.out), rows_by_id(plain.out)
    for name in "abc":
        assert np.abs(decoded(compiled[name]).astype(int) - decoded(eager[name])).max() <= 1
