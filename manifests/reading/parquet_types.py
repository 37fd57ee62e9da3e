"""Which Arrow types the known columns of a Parquet manifest may have."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types as kinds

from wanbatch.manifests.columns import GIVEN

IMAGE_FIELDS = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def type_rule(name: str, kind: pa.DataType) -> str | None:
    """What the type of a known column must be, if it is another."""
    wanted = GIVEN[name].kind.type
    if wanted is not None:
        return None if _holds(kind, wanted) else _type_words(wanted)
    kind = kind.value_type if _is_list(kind) else kind
    good = _is_text(kind) or kinds.is_null(kind) or _fields_are(kind, IMAGE_FIELDS)
    return None if good else "paths (text), structs with bytes (binary) and path (text) alone, or lists of these"


def _holds(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a type may have values of a wanted one. A whole float is an integer; a fraction is found row by row."""
    if kinds.is_null(kind):
        return True
    if kinds.is_string(wanted):
        return _is_text(kind)
    if kinds.is_binary(wanted):
        return _is_binary(kind)
    if _is_list(wanted):
        return _is_list(kind) and _holds(kind.value_type, wanted.value_type)
    if kinds.is_struct(wanted):
        return _fields_are(kind, wanted)
    return _is_number(kind)


def _type_words(wanted: pa.DataType, several: bool = False) -> str:
    if kinds.is_string(wanted):
        return "text" if not several else "texts"
    if _is_list(wanted):
        return f"a list of {_type_words(wanted.value_type, several=True)}"
    if kinds.is_struct(wanted):
        fields = (wanted.field(i) for i in range(wanted.num_fields))
        named = " and ".join(f"{f.name} ({_type_words(f.type).removeprefix('a ')})" for f in fields)
        return f"structs with {named} alone"
    return "numbers" if several else "a number"


def _fields_are(kind: pa.DataType, wanted: pa.StructType) -> bool:
    """True for a struct that has some of the wanted fields, of fitting types, and no other."""
    if not kinds.is_struct(kind) or kind.num_fields == 0:
        return False
    allowed = {wanted.field(i).name: wanted.field(i).type for i in range(wanted.num_fields)}
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return all(f.name in allowed and _holds(f.type, allowed[f.name]) for f in fields)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return kinds.is_integer(kind) or kinds.is_floating(kind)


def _is_list(kind: pa.DataType) -> bool:
    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def has_extension(field: pa.Field) -> bool:
    """True if the field or one inside it has an extension type, known to pyarrow or not."""
    if isinstance(field.type, pa.BaseExtensionType) or b"ARROW:extension:name" in (field.metadata or {}):
        return True
    if kinds.is_dictionary(field.type):
        return isinstance(field.type.value_type, pa.BaseExtensionType)
    return any(has_extension(field.type.field(i)) for i in range(field.type.num_fields))
