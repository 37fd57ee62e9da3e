"""Columns in other types, also lists of structs with a field that is null throughout, which pyarrow casts wrongly."""

from __future__ import annotations

import pyarrow as pa
import pytest

from wanbatch.manifests.storage.arrow_casts import cast, cast_table

PARENTS = [
    [{"id": "a", "split": None, "share": 1}],
    [{"id": "a", "split": None, "share": 0}, {"id": "b", "share": 1}],
]
WANTED = pa.list_(pa.struct([("id", pa.string()), ("split", pa.null()), ("share", pa.float64())]))


@pytest.mark.parametrize("whole", [pa.array(PARENTS), pa.chunked_array([PARENTS[:1], PARENTS[1:]])])
def test_a_field_that_is_null_throughout_stays_whole(whole):
    found = cast(whole, WANTED)
    found.validate(full=True)
    assert found.type == WANTED
    assert [[one["share"] for one in row] for row in found.to_pylist()] == [[1.0], [0.0, 1.0]]
    assert cast(found, WANTED) is found


def test_a_table_takes_the_order_and_types_of_a_schema_and_loses_nothing():
    schema = pa.schema([("b", pa.float64()), ("a", WANTED)])
    found = cast_table(pa.table({"a": pa.array(PARENTS), "b": [1, 2]}), schema)
    found.validate(full=True)
    assert found.schema == schema
    with pytest.raises(pa.ArrowException):
        cast(pa.array([1.5]), pa.int64())
