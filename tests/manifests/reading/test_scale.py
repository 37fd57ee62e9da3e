"""Processor time and memory of large manifests, measured in processes of their own."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MEASURE = (
    "import json, sys, time\n"
    "from wanbatch.manifests.reading.manifest import read_manifest\n"
    "start = time.process_time()\n"
    "manifest = read_manifest(sys.argv[1])\n"
    "taken = time.process_time() - start\n"
    "rows = sum(1 for row in manifest.iter_rows())\n"
    "status = open('/proc/self/status').read()\n"  # getrusage's peak would be at least that of pytest
    "peak = int(status.split('VmHWM:')[1].split()[0]) / 1024\n"
    "print(json.dumps({'rows': rows, 'seconds': taken, 'megabytes': peak}))\n"
)


def measure(path) -> dict:
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def write_lines(path, count: int) -> None:
    with open(path, "w") as file:
        for n in range(count):
            row = {"id": f"row-{n}", "prompt": f"a big red heart number {n}", "seed": n, "label": n % 7}
            if n % 2:
                row |= {"image": f"images/{n:07d}.png", "creativity": 0.4, "tags": ["x", "y"]}
            if n % 10 == 0:
                row |= {"blend_group": f"group-{n // 20}", "image": "a.png", "prompt": "one"}
                del row["id"]
            file.write(json.dumps(row | ({"seed": 1} if n % 10 == 0 else {})) + "\n")


def test_thirty_thousand_lines(tmp_path):
    """A hundred thousand are planned in `tests/jobs/planning/test_plan.py`."""
    write_lines(tmp_path / "shop.jsonl", 30_000)
    found = measure(tmp_path / "shop.jsonl")
    assert found["rows"] == 28_500
    assert found["seconds"] < 7
    assert found["megabytes"] < 300


def test_thirty_thousand_parquet_rows(tmp_path):
    columns = {"prompt": [f"prompt {n}" for n in range(30_000)], "seed": range(30_000), "label": range(30_000)}
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), tmp_path / "shop.parquet")
    found = measure(tmp_path / "shop.parquet")
    assert found["rows"] == 30_000
    assert found["seconds"] < 7
    assert found["megabytes"] < 300


@pytest.mark.parametrize("some_null", [False, True])
def test_embedded_images_are_not_held(tmp_path, some_null):
    """400 MB of images; where some are null, a row group's page has to fit in memory, but no more than that."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    blob = np.random.default_rng(0).bytes(1 << 20)
    images = [{"bytes": blob[n:], "path": None} for n in range(40)]
    images[7] = {"bytes": None, "path": "a.png"} if some_null else images[7]
    table = pa.table({"image": pa.array(images, kind)})
    with pq.ParquetWriter(tmp_path / "shop.parquet", table.schema, use_dictionary=False) as writer:
        for _ in range(10):
            writer.write_table(table)
    found = measure(tmp_path / "shop.parquet")
    assert found["rows"] == 400
    assert found["megabytes"] < (350 if some_null else 200)


@pytest.mark.slow
def test_a_million_lines(tmp_path):
    write_lines(tmp_path / "shop.jsonl", 1_000_000)
    found = measure(tmp_path / "shop.jsonl")
    assert found["seconds"] < 90
    assert found["megabytes"] < 1500
