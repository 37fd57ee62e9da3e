"""Nonsense in, clean errors out: mutated lines and values of every kind in every column."""

import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wanbatch.errors import ManifestError, UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.reading.row_model import KNOWN

ROW = {
    "id": "a",
    "prompt": "a heart ♥ \u0000",
    "images": ["a.png", {"path": "b.png", "bytes": None}],
    "blend_weights": [0.5, 1e-300],
    "loras": [{"name": "x", "weight": -1}],
    "seed": 12345678901234567890,
    "meta": {"a": [1, {"b": None}], "c": "\ud83d\ude00"},
    "creativity": 1e308,
}
VALUES = [None, True, 0, -1, 2**63, 10**40, 0.5, 1e308, "", "a", "\ud800", "..", "/", "http://x", [], [[]], {}]
VALUES += [
    [None],
    [1, "a"],
    [{}],
    {"path": "a"},
    {"path": 1},
    {"bytes": ""},
    {"name": "a"},
    [{"name": "a"}],
    "\0",
    "x" * 9999,
]


def outcome(path) -> int:
    """How many rows were read or refused."""
    try:
        return len(read_manifest(path))
    except ManifestError as error:
        for problem in error.problems:
            assert len(str(problem)) < 1000
            assert "\n" not in str(problem)
        return len(error.problems)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_lines(tmp_path, seed):
    chance = random.Random(seed)
    good = json.dumps(ROW, ensure_ascii=bool(seed % 2)).encode("utf-8", "surrogatepass")
    lines = []
    for _ in range(1500):
        line = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(line))
            action = chance.randrange(3)
            if action == 0:
                line[place] = chance.choice(b'{}[]",:\\0123456789eE+-.ntf\x00\xff u')
            elif action == 1:
                del line[place : place + chance.randrange(1, 12)]
            else:
                line[place:place] = line[chance.randrange(len(line)) :][: chance.randrange(1, 30)]
        lines.append(bytes(line))
    path = tmp_path / "shop.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert outcome(path) > 1000


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_value_in_every_column(tmp_path, step):
    path = tmp_path / "shop.jsonl"
    base = {"prompt": "a", "image": "a.png"}
    rows = [{**base, column: value} for column in sorted(KNOWN) for value in VALUES]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert outcome(path) > 200
    for number, value in enumerate(VALUES):
        for other in VALUES[number % step :: step]:
            path.write_text("\n".join(json.dumps({**base, "x": v}) for v in (value, other)))
            assert outcome(path) > 0


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_type_in_every_parquet_column(tmp_path, step):
    """In steps: each type in every fifth column, and the other way round."""
    path = tmp_path / "shop.parquet"
    arrays = [
        pa.array([value], from_pandas=False) for value in VALUES if value not in (10**40, 2**63, "\ud800", [1, "a"])
    ]
    arrays += [pa.array([1], kind) for kind in (pa.date32(), pa.timestamp("ns"), pa.time64("us"), pa.duration("s"))]
    arrays += [
        pa.array([1], pa.uint64()),
        pa.array([1], pa.decimal128(5, 2)),
        pa.array([b"a"]),
        pa.array([1.0], pa.float16()),
    ]
    arrays += [pa.array(["a"], pa.string_view()), pa.array(["a"]).dictionary_encode(), pa.nulls(1)]
    for number, column in enumerate(sorted(KNOWN)):
        for array in arrays[number % step :: step]:
            with suppress(pa.ArrowNotImplementedError):  # types that Parquet itself cannot hold
                pq.write_table(pa.table({"text": ["x"], column: array}), path)
                with suppress(UserError):
                    read_manifest(path)


MEGABYTES = {"lines": 200, "packed": 200, "csv": 200, "parquet": 5500, "arrow": 5500, "images": 200}


@pytest.fixture(
    scope="module", params=[100, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def fuzzed(request, tmp_path_factory) -> tuple[int, dict[str, dict]]:
    """How many damaged files of each kind were read, and what became of them."""
    program = Path(__file__).parents[2] / "support" / "fuzz_run.py"
    command = [sys.executable, program, str(request.param), tmp_path_factory.mktemp("fuzzed"), *MEGABYTES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3500 if request.param > 100 else 600)
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, {found["kind"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(("kind", "megabytes"), MEGABYTES.items())
def test_damaged_files(fuzzed, kind, megabytes):
    """A damaged Parquet page may claim 2 GiB, which pyarrow takes before it looks; the others stay small."""
    count, found = fuzzed[0], fuzzed[1][kind]
    assert found["cases"] >= count
    assert 0 < found["read"] < count
    assert found["slowest_seconds"] < 20
    assert found["longest_message"] < 10_000
    assert found["grown_megabytes"] < megabytes
