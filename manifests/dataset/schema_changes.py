"""What becomes of a folder's columns when its manifest has grown: columns that hold all values of both."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.types as types

from wanbatch.manifests.columns import ALWAYS, COLUMNS, LATER
from wanbatch.manifests.records import DATA_SCHEMA, data_schema, feature_metadata, huggingface_features
from wanbatch.manifests.storage.arrow_casts import cast as cast_column


class ColumnsDifferError(ValueError):
    """Columns that cannot be made one without losing something; the message names each."""


def common_schema(old: pa.Schema, new: pa.Schema) -> pa.Schema:
    """The schema of data parts that hold the rows of both.

    Columns of the manifest keep the order that they have in `old`; others come last.

    Args:
        old: of some data parts.
        new: of others.
    Raises:
        ColumnsDifferError: if the types of a column have no common one.
    """
    fields, problems = {}, []
    for name in dict.fromkeys([*_added(old), *_added(new)]):
        field = _common_field(name, old, new)
        if isinstance(field, str):
            problems.append(field)
        else:
            fields[name] = field
    if problems:
        raise ColumnsDifferError("; ".join(problems))
    later = [name for name in fields if name in LATER]
    passthrough = pa.schema([field for name, field in fields.items() if name not in LATER])
    return data_schema(passthrough.with_metadata(feature_metadata(_features(passthrough, old, new))), later)


def require_none_gone(old: pa.Schema, new: pa.Schema) -> None:
    """Raises ColumnsDifferError if `old` has columns with values that `new` lacks."""
    gone = [name for name in _added(old) if name not in new.names and not types.is_null(old.field(name).type)]
    fresh = [name for name in _added(new) if name not in old.names]
    sentences = []
    for name in gone:
        near = get_close_matches(name, fresh, 1)
        sentences.append(f"{name} is gone" + (f" (was it renamed to {near[0]}?)" if near else ""))
    if sentences:
        raise ColumnsDifferError("; ".join(sentences))


def require_own(schema: pa.Schema) -> None:
    """Raises ColumnsDifferError if a column that wanbatch writes is one of the manifest in these data parts.

    It is, if it is there without any that came with it: the folder was begun before wanbatch wrote it.
    """
    since = {column.name: column.since for column in COLUMNS if column.name in ALWAYS}
    for name in ALWAYS:
        together = [other for other in ALWAYS if since[other] == since[name]]
        if len(together) > 1 and [other for other in together if other in schema.names] == [name]:
            raise ColumnsDifferError(f"{name} came with the manifest, and wanbatch writes a column of that name now")


def cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema, null where it lacks one. Raises ArrowException if values are lost."""
    columns = [
        cast_column(table[field.name], field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(len(table), field.type)])
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def columns_to_check(old: pa.Schema, new: pa.Schema) -> list[str]:
    """Columns of `old` whose values decide whether they can be cast to `new`."""
    there = [field for field in old if not types.is_null(field.type)]
    return [field.name for field in there if field.type != new.field(field.name).type]


def _added(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in DATA_SCHEMA.names]


def _common_field(name: str, old: pa.Schema, new: pa.Schema) -> pa.Field | str:
    """The field that holds the values of both, or why there is none."""
    if name not in old.names or name not in new.names:
        return pa.field(name, (old if name in old.names else new).field(name).type)
    before, now = old.field(name).type, new.field(name).type
    common = _common_type(before, now)
    if common is None or (name in LATER and common != now):
        return f"{name} was {before}, now {now}"
    return pa.field(name, common)


def _common_type(old: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    if old == new:
        return old
    try:
        both = [pa.schema([("", kind)]) for kind in (old, new)]
        common = pa.unify_schemas(both, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    kinds, of_old, of_new = (dict(_leaves(kind)) for kind in (common, old, new))
    keeps = all(
        _same_kind(kinds[path], leaves[path]) for leaves in (of_old, of_new) for path in leaves if path in kinds
    )
    return common if keeps else None


def _leaves(kind: pa.DataType, path: str = "") -> Iterator[tuple[str, pa.DataType]]:
    if types.is_nested(kind):
        for index in range(kind.num_fields):
            field = kind.field(index)
            name = field.name if types.is_struct(kind) else str(index)  # the items of lists have any name
            yield from _leaves(field.type, f"{path}/{name}")
    else:
        yield path, kind


def _same_kind(common: pa.DataType, one: pa.DataType) -> bool:
    """Arrow makes bytes of text and floats of decimals, which readers would take for something else."""
    if types.is_null(one):
        return True
    return all(
        test(common) == test(one)
        for test in (
            lambda kind: types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind),
            types.is_decimal,
            types.is_date,
        )
    )


def _features(passthrough: pa.Schema, old: pa.Schema, new: pa.Schema) -> dict[str, dict]:
    """What `datasets` is told of the manifest's columns, as far as their types are still those it was told of."""
    features: dict[str, dict] = {}
    for schema in (old, new):
        declared = huggingface_features(schema)
        for field in passthrough:
            if field.name in declared and field.name in schema.names and schema.field(field.name).type == field.type:
                features[field.name] = declared[field.name]
    return features
