"""Which Arrow types the known columns of a manifest may have, and the plain types that stand for their variants."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from pyarrow import types as kinds

from wanbatch.manifests.column_types import IMAGE, NAME, SOUND
from wanbatch.manifests.columns import GIVEN

IMAGE_FIELDS = {"bytes": pa.binary(), "path": pa.string()}

EXACT_BELOW = {pa.float16(): 2**11, pa.float32(): 2**24}
"""From here on floats of these types cannot tell a whole number from the next; for those of Python it is 2**53."""


def type_rule(name: str, kind: pa.DataType) -> str | None:
    """What the type of a known column must be, if it is another. kind: without views, see `plain_type`."""
    wanted = GIVEN[name].kind.type
    if GIVEN[name].kind is SOUND:
        good = _is_image(kind)
        return None if good else "paths (text), sound files (binary) or structs of bytes and path"
    if wanted is None:
        good = _is_image(kind.value_type if is_list(kind) else kind)
        return None if good else "paths (text), encoded images (binary), structs of bytes and path, or lists of these"
    if GIVEN[name].kind is IMAGE:
        return None if _is_image(kind) else "paths (text), encoded images (binary), or structs of bytes and path"
    if GIVEN[name].kind is NAME and _is_number(kind):
        return None
    return None if _holds(kind, wanted) else _type_words(wanted)


def unused_fields(kind: pa.DataType) -> list[str]:
    """The fields of a column of images beside its bytes and path, which are not read."""
    kind = kind.value_type if is_list(kind) else kind
    return [f.name for f in kind if f.name not in IMAGE_FIELDS] if kinds.is_struct(kind) else []


def unknown_to_datasets(kind: pa.DataType) -> pa.DataType | None:
    """The type, or the one inside it, for which the library `datasets` has none, so that it reads no rows."""
    if kinds.is_map(kind) or (kinds.is_decimal(kind) and kind.bit_width < 128):
        return kind
    if kinds.is_dictionary(kind):
        return unknown_to_datasets(kind.value_type)
    inner = (unknown_to_datasets(kind.field(i).type) for i in range(kind.num_fields))
    return next((found for found in inner if found is not None), None)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The same type without views, also inside it: text, binary and lists as all tools read and write them."""
    if kinds.is_string_view(kind):
        return pa.string()
    if kinds.is_binary_view(kind):
        return pa.binary()
    if kinds.is_dictionary(kind):
        return pa.dictionary(kind.index_type, plain_type(kind.value_type), kind.ordered)
    if kinds.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field), kind.keys_sorted)
    if kinds.is_struct(kind):
        return pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    for is_one, make in _LISTS:
        if is_one(kind):
            return make(_plain_field(kind.value_field))
    if kinds.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    return kind


_LISTS: tuple[tuple[Callable, Callable], ...] = (
    (kinds.is_list, pa.list_),
    (kinds.is_large_list, pa.large_list),
    (kinds.is_list_view, pa.list_),
    (kinds.is_large_list_view, pa.large_list),
)


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type))


def plain_array(array: pa.Array) -> pa.Array:
    """An array in its `plain_type`."""
    wanted = plain_type(array.type)
    if array.type.equals(wanted):
        return array
    if _has_list_view(array.type):  # casting these gives offsets that are too short (pyarrow 26)
        return pa.array(array.to_pylist(), wanted)
    return array.cast(wanted)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with every column in its `plain_type`."""
    return pa.RecordBatch.from_arrays([plain_array(column) for column in batch.columns], names=batch.schema.names)


def _has_list_view(kind: pa.DataType) -> bool:
    if kinds.is_list_view(kind) or kinds.is_large_list_view(kind):
        return True
    return any(_has_list_view(kind.field(i).type) for i in range(kind.num_fields))


def _holds(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a type may have values of a wanted one. A whole float is an integer; a fraction is found row by row."""
    if kinds.is_null(kind):
        return True
    if kinds.is_string(wanted):
        return _is_text(kind)
    if kinds.is_binary(wanted):
        return is_binary(kind)
    if is_list(wanted):
        return is_list(kind) and _holds(kind.value_type, wanted.value_type)
    if kinds.is_struct(wanted):
        return _fields_are(kind, wanted)
    if kinds.is_boolean(wanted):
        return kinds.is_boolean(kind)
    return _is_number(kind)


def _type_words(wanted: pa.DataType, several: bool = False) -> str:
    if kinds.is_string(wanted):
        return "text" if not several else "texts"
    if is_list(wanted):
        return f"a list of {_type_words(wanted.value_type, several=True)}"
    if kinds.is_struct(wanted):
        fields = (wanted.field(i) for i in range(wanted.num_fields))
        named = " and ".join(f"{f.name} ({_type_words(f.type).removeprefix('a ')})" for f in fields)
        return f"structs with {named} alone"
    if kinds.is_boolean(wanted):
        return "booleans" if several else "true or false"
    return "numbers" if several else "a number"


def _fields_are(kind: pa.DataType, wanted: pa.StructType) -> bool:
    """True for a struct that has some of the wanted fields, of fitting types, and no other."""
    if not kinds.is_struct(kind) or kind.num_fields == 0:
        return False
    allowed = {wanted.field(i).name: wanted.field(i).type for i in range(wanted.num_fields)}
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return all(f.name in allowed and _holds(f.type, allowed[f.name]) for f in fields)


def _is_image(kind: pa.DataType) -> bool:
    return _is_text(kind) or kinds.is_null(kind) or is_binary(kind) or _has_image(kind)


def _has_image(kind: pa.DataType) -> bool:
    """True for a struct with bytes or path, of fitting types; other fields do not matter."""
    if not kinds.is_struct(kind):
        return False
    found = [f for f in kind if f.name in IMAGE_FIELDS]
    return bool(found) and all(_holds(f.type, IMAGE_FIELDS[f.name]) for f in found)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def is_binary(kind: pa.DataType) -> bool:
    """True for bytes of any length."""
    return kinds.is_binary(kind) or kinds.is_large_binary(kind)


def has_bytes(kind: pa.DataType) -> bool:
    """True for a column of images that may be embedded: bytes, structs with bytes, lists of these."""
    kind = kind.value_type if is_list(kind) else kind
    return is_binary(kind) or (kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def holds_binary(kind: pa.DataType) -> bool:
    """True for bytes, and for lists of bytes."""
    return is_binary(kind.value_type if is_list(kind) else kind)


def _is_number(kind: pa.DataType) -> bool:
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)


def is_list(kind: pa.DataType) -> bool:
    """True for lists of any or of one length."""
    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def has_extension(field: pa.Field) -> bool:
    """True if the field or one inside it has an extension type, known to pyarrow or not."""
    if isinstance(field.type, pa.BaseExtensionType) or b"ARROW:extension:name" in (field.metadata or {}):
        return True
    if kinds.is_dictionary(field.type):
        return isinstance(field.type.value_type, pa.BaseExtensionType)
    return any(has_extension(field.type.field(i)) for i in range(field.type.num_fields))
