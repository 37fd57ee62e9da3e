"""Arrow columns in other types, also those whose cast pyarrow spoils."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

Column = TypeVar("Column", pa.Array, pa.ChunkedArray)


def cast(column: Column, wanted: pa.DataType) -> Column:
    """A column in another type. Raises ArrowException if a value cannot be held.

    Of lists of structs, pyarrow 26 leaves a field that is null throughout too short.
    """
    if column.type.equals(wanted):
        return column
    found = column.cast(wanted)
    try:
        found.validate()
    except pa.ArrowInvalid:
        if isinstance(column, pa.ChunkedArray):
            return pa.chunked_array([pa.array(chunk.to_pylist(), wanted) for chunk in column.chunks], type=wanted)
        return pa.array(column.to_pylist(), wanted)
    return found


def cast_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema, in its order and types. Raises ArrowException as `cast` does."""
    return pa.Table.from_arrays([cast(table[field.name], field.type) for field in schema], schema=schema)
