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


def measure(path, what: str = MEASURE) -> dict:
    done = subprocess.run([sys.executable, "-c", what, path], capture_output=True, text=True, check=True)
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


def test_ten_thousand_lines(tmp_path):
    """A hundred thousand are planned in `tests/jobs/planning/test_plan.py`."""
    write_lines(tmp_path / "shop.jsonl", 10_000)
    found = measure(tmp_path / "shop.jsonl")
    assert found["rows"] == 9_500
    assert found["seconds"] < 7
    assert found["megabytes"] < 220


MISTAKES = (
    "import json, sys\n"
    "from wanbatch.errors import ManifestError\n"
    "from wanbatch.manifests.reading.manifest import read_manifest\n"
    "try:\n"
    "    read_manifest(sys.argv[1])\n"
    "except ManifestError as error:\n"
    "    found = [(one.location.rpartition('/')[2], one.message) for one in error.problems]\n"
    "status = open('/proc/self/status').read()\n"
    "print(json.dumps({'found': found, 'megabytes': int(status.split('VmHWM:')[1].split()[0]) / 1024}))\n"
)


@pytest.mark.parametrize(
    ("count", "megabytes", "of_mistakes"),
    [(20_000, 220, 260), pytest.param(100_000, 320, 420, marks=pytest.mark.slow)],
)
def test_parquet_rows_by_the_hundred_thousand(tmp_path, count, megabytes, of_mistakes):
    """In ten row groups, of which reading holds one at a time: all rows, all mistakes, and memory within bounds."""
    size = count // 10
    rows = {
        "id": pa.array([f"row-{n}" for n in range(count)]),
        "prompt": pa.array([f"a big red heart number {n}" for n in range(count)]),
        "image": pa.array([None if n % 2 else f"images/{n:07d}.png" for n in range(count)]),
        "creativity": pa.array([None if n % 2 else 0.4 for n in range(count)]),
        "seed": pa.array(range(count)),
        "label": pa.array([n % 7 for n in range(count)]),
        "tags": pa.array([["x", "y"]] * count),
    }
    pq.write_table(pa.table(rows), tmp_path / "shop.parquet", row_group_size=size)
    found = measure(tmp_path / "shop.parquet", MEASURE)
    assert found["rows"] == count
    assert found["seconds"] < 20
    assert found["megabytes"] < megabytes  # of which 90 are the modules
    ids, creativity = rows["id"].to_pylist(), rows["creativity"].to_pylist()
    ids[count - 1] = ids[5]  # of the first row group and the last
    for bad in (0, 5 * size - 2, 5 * size):
        creativity[bad] = 1.5
    creativity[count - 3] = 0.5  # of a row without an image
    wrong = rows | {"id": pa.array(ids), "creativity": pa.array(creativity)}
    pq.write_table(pa.table(wrong), tmp_path / "wrong.parquet", row_group_size=size)
    found = measure(tmp_path / "wrong.parquet", MISTAKES)
    assert [place for place, _ in found["found"]] == [
        f"wrong.parquet row {row}" for row in (0, 5 * size - 2, 5 * size, count - 3, count - 1)
    ]
    said = [message for _, message in found["found"]]
    assert all(message.startswith("creativity is 1.5: must be") for message in said[:3])
    assert "there is no source image" in said[3]
    assert said[4] == f"id 'row-5' is already at {tmp_path / 'wrong.parquet'} row 5: give each row its own"
    assert found["megabytes"] < of_mistakes  # what is right of bad rows is kept, too, and all are sorted


@pytest.mark.parametrize("some_null", [False, True])
def test_embedded_images_are_not_held(tmp_path, some_null):
    """200 MB of images; where some are null, a row group's page has to fit in memory, but no more than that."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    blob = np.random.default_rng(0).bytes(1 << 20)
    images = [{"bytes": blob[n:], "path": None} for n in range(20)]
    images[7] = {"bytes": None, "path": "a.png"} if some_null else images[7]
    table = pa.table({"image": pa.array(images, kind)})
    with pq.ParquetWriter(tmp_path / "shop.parquet", table.schema, use_dictionary=False) as writer:
        for _ in range(10):
            writer.write_table(table)
    found = measure(tmp_path / "shop.parquet")
    assert found["rows"] == 200
    assert found["megabytes"] < (250 if some_null else 200)


@pytest.mark.slow
def test_a_million_lines(tmp_path):
    write_lines(tmp_path / "shop.jsonl", 1_000_000)
    found = measure(tmp_path / "shop.jsonl")
    assert found["seconds"] < 90
    assert found["megabytes"] < 1500
