"""A Parquet manifest with columns of many types that wanbatch does not know."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_making import table

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
def wide(run_fast, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    pq.write_table(_wide_table(), folder / "items.parquet", row_group_size=77)
    return run_fast(folder / "items.parquet", folder / "out", settings(unit_rows=100))


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
