"""Parquet manifests made to cost more than they look: each is refused, in bounded memory."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wanbatch.errors import UserError
from wanbatch.manifests.reading import arrow_columns
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.storage import parquet_limits

MEASURE = (
    "import json, sys\n"
    "from wanbatch.errors import UserError\n"
    "from wanbatch.manifests.storage import parquet_limits as limits\n"
    "from wanbatch.manifests.reading.manifest import read_manifest\n"
    "limits.Budget.__init__.__defaults__ = (30 << 20,)\n"
    "limits.BATCH_BYTES, limits.MAX_GROUP_VALUES = 64 << 20, 16_000_000\n"
    "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024\n"
    "before = peak()\n"
    "try:\n    said = len(read_manifest(sys.argv[1]))\n"
    "except UserError as error:\n    said = str(error)\n"
    "print(json.dumps({'said': said, 'grown': peak() - before}))\n"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.parquet"


def measured(path) -> tuple[str, int]:
    """What reading it in a process of its own says, and by how many MB that grew."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, timeout=100, check=True
    )
    found = json.loads(done.stdout)
    return found["said"], found["grown"]


def test_a_dictionary_bomb(path):
    """100 GB of prompts in a small file: one value of 1 MB, named a hundred thousand times."""
    prompts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"prompt": prompts}), path, row_group_size=100_000)
    assert path.stat().st_size < 200_000
    said, grown = measured(path)
    assert "holds more than 31457280 bytes besides images: split the manifest" in said
    assert grown < 700


def test_a_list_of_very_many_nulls(path):
    values = pa.ListArray.from_arrays(pa.array([0, 17_000_000], pa.int32()), pa.nulls(17_000_000, pa.int8()))
    pq.write_table(pa.table({"prompt": ["a"], "x": values}), path)
    said, grown = measured(path)
    assert "row group 0 holds" in said
    assert grown < 100


def test_more_rows_than_anyone_asks_for(path, monkeypatch):
    pq.write_table(pa.table({"prompt": pa.nulls(2_000_000, pa.string())}), path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(parquet_limits, "MAX_ROWS", 1_000_000)
    with pytest.raises(UserError, match="has 2000000 rows; at most 1000000 are read"):
        read_manifest(path)


def test_many_columns(path):
    pq.write_table(pa.table({f"c{n}": [1] for n in range(1001)}), path)
    with pytest.raises(UserError, match="has 1001 columns; at most 1000"):
        read_manifest(path)
    deep = pa.struct([(f"f{n}", pa.int8()) for n in range(1001)])
    pq.write_table(pa.table({"prompt": ["a"], "x": pa.nulls(1, deep)}), path)
    with pytest.raises(UserError, match="has 1002 columns; at most 1000"):
        read_manifest(path)


@pytest.mark.parametrize("depth", [40, 300])
@pytest.mark.parametrize("wrap", [pa.list_, lambda kind: pa.struct([("a", kind)])], ids=["lists", "structs"])
def test_deep_nesting(path, depth, wrap):
    kind = pa.int8()
    for _ in range(depth):
        kind = wrap(kind)
    pq.write_table(pa.schema([("prompt", pa.string()), ("x", kind)]).empty_table(), path)
    with pytest.raises(UserError, match="nested"):
        read_manifest(path)


def test_large_row_groups(path, monkeypatch):
    pq.write_table(pa.table({"prompt": [f"{n}" * 100 for n in range(1000)]}), path)
    monkeypatch.setattr(parquet_limits, "MAX_GROUP_BYTES", 10_000)
    with pytest.raises(UserError, match=r"row group 0 holds .* bytes: write smaller row groups"):
        read_manifest(path)


def test_a_large_value(path, monkeypatch):
    pq.write_table(pa.table({"prompt": ["a", "b" * 2000], "x": ["c" * 3000, None]}), path)
    monkeypatch.setattr(arrow_columns, "MAX_CELL_BYTES", 1500)
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    assert "row 1: prompt has 2000 bytes; at most 1500 are taken" in str(caught.value)
    assert "row 0: x has 3000 bytes" in str(caught.value)


@pytest.mark.parametrize(("size", "most"), [(20 << 20, parquet_limits.MAX_FOOTER), (2 << 20, 1 << 20)])
def test_huge_metadata(path, monkeypatch, size, most):
    monkeypatch.setattr(parquet_limits, "MAX_FOOTER", most)
    schema = pa.schema([("prompt", pa.string())], metadata={"note": "x" * size})
    pq.write_table(pa.table({"prompt": ["a"]}, schema=schema), path)
    with pytest.raises(UserError, match=r"its metadata has|cannot be read as Parquet"):
        read_manifest(path)


def test_batches_are_small_where_values_could_repeat(path):
    pq.write_table(pa.table({"a": ["x" * 1000] * 10, "b": [f"{n}" for n in range(10)]}), path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert parquet_limits.batch_rows(group, None, 4096) == 4096
    pq.write_table(pa.table({"a": ["x" * (8 << 20)] * 10}), path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert parquet_limits.batch_rows(group, None, 4096) == 31


def test_a_row_group_that_lacks_a_column(path):
    """Found by fuzzing: a footer whose second row group names fewer columns than the schema."""
    image = pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "a.png"}] * 2)
    pq.write_table(pa.table({"image": image, "seed": [1] * 4}), path, row_group_size=2)
    metadata = pq.ParquetFile(path).metadata
    assert parquet_limits.too_much(metadata, set()) is None

    class Short:
        """The same metadata with the last column of the last row group left out."""

        num_columns, num_rows, num_row_groups, schema = metadata.num_columns, 4, 2, metadata.schema

        def row_group(self, number):
            group = metadata.row_group(number)
            count = group.num_columns - number
            return type("Group", (), {"num_columns": count, "column": staticmethod(group.column)})()

    assert parquet_limits.too_much(Short(), set()) == "row group 1 has other columns than the file: write it again"


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_whichever_byte_of_the_metadata_is_changed(path, step):
    """Some changes make pyarrow end the process; that of the reader goes on."""
    pq.write_table(pa.table({"prompt": ["a", "b"], "x": [[1], None]}), path)
    good = path.read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    read = 0
    for place in range(len(good) - 8 - length, len(good) - 8, step):
        path.write_bytes(good[:place] + bytes([good[place] ^ 2]) + good[place + 1 :])
        try:
            read_manifest(path)
        except UserError:
            continue
        read += 1
    assert read > 0
