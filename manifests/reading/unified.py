"""The passthrough columns of several files as one table: types are unified wherever no value changes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set

import pyarrow as pa
from pyarrow import types as kinds

from wanbatch.manifests.reading.validation import Problems
from wanbatch.manifests.records import feature_metadata, huggingface_features
from wanbatch.manifests.storage.arrow_casts import cast


def unified(tables: Sequence[pa.Table], problems: Problems) -> pa.Table:
    """The rows of all tables, one after the other.

    A column that some tables lack is null there. null goes with any type, integers with floats and decimals as far as
    these hold them, structs with structs that have other fields, categories with text.

    Args:
        tables: of the manifest's files, in their order.
        problems: takes what does not go together, with the file.
    """
    schema, refused = _schema(tables, problems)
    return pa.concat_tables([_cast(table, index, schema, refused, problems) for index, table in enumerate(tables)])


def _schema(tables: Sequence[pa.Table], problems: Problems) -> tuple[pa.Schema, set[tuple[int, str]]]:
    """The columns of all tables, and which of which table have no type in common with those before."""
    refused = set()
    fields: dict[str, pa.Field] = {}
    holders = Counter(name for table in tables for name in table.schema.names)
    for index, table in enumerate(tables):
        for field in table.schema:
            known = fields.setdefault(field.name, field)
            anywhere = holders[field.name] == len(tables)
            try:
                kept = known.with_type(common_type(known.type, field.type))
                fields[field.name] = kept.with_nullable(known.nullable or field.nullable or not anywhere)
            except pa.ArrowException:
                first = next(i for i, other in enumerate(tables) if field.name in other.schema.names)
                message = (
                    f"column {field.name!r} is {field.type}, but {known.type} in {problems.files[first]}: cast it"
                )
                problems.add(index, -1, message)
                refused.add((index, field.name))
    return pa.schema(fields.values(), metadata=_features(tables, fields)), refused


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both without loss. Raises ArrowException if there is none."""
    if one == other:
        return one
    if kinds.is_dictionary(one) != kinds.is_dictionary(other) and not (kinds.is_null(one) or kinds.is_null(other)):
        one, other = (kind.value_type if kinds.is_dictionary(kind) else kind for kind in (one, other))
    if (_is_bytes(one) and _is_text(other)) or (_is_text(one) and _is_bytes(other)):
        raise pa.ArrowTypeError("text would become bytes")
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _is_bytes(kind: pa.DataType) -> bool:
    return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def _cast(
    table: pa.Table, index: int, schema: pa.Schema, refused: Set[tuple[int, str]], problems: Problems
) -> pa.Table:
    columns = []
    for field in schema:
        column = table[field.name] if field.name in table.schema.names else None
        if column is None or (index, field.name) in refused:
            columns.append(pa.chunked_array([pa.nulls(len(table), field.type)]))
            continue
        try:
            columns.append(_exactly(column, field.type))
        except pa.ArrowException as error:
            message = f"column {field.name!r} has values that {field.type}, its type in other files, cannot hold"
            problems.add(index, -1, f"{message} ({str(error).splitlines()[0]}): cast it in all files")
            columns.append(pa.chunked_array([pa.nulls(len(table), field.type)]))
    return pa.Table.from_arrays(columns, schema=schema)


def _exactly(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Raises ArrowException if a value would change."""
    if column.type.equals(wanted):
        return column
    found = cast(column, wanted)
    if kinds.is_decimal(column.type) and kinds.is_floating(wanted) and not found.cast(column.type).equals(column):
        raise pa.ArrowInvalid("a decimal has more digits than a float")
    return found


def _features(tables: Sequence[pa.Table], fields: dict[str, pa.Field]) -> dict[str, str] | None:
    """The Hugging Face features that the tables note of their columns, for those whose type stays."""
    features = dict(_kept_features(tables, fields))
    return feature_metadata(features) if features else None


def _kept_features(tables: Sequence[pa.Table], fields: dict[str, pa.Field]) -> Iterator[tuple[str, dict]]:
    seen = set()
    for table in tables:
        for name, feature in huggingface_features(table.schema).items():
            if name in table.schema.names and name not in seen and table.schema.field(name).type == fields[name].type:
                seen.add(name)
                yield name, feature
