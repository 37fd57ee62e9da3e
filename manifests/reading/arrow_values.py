"""Columns of Arrow as the plain Python values that the row model checks; images as marks of where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kinds

from wanbatch.manifests.column_types import IMAGE_KINDS, LostDigits
from wanbatch.manifests.columns import GIVEN
from wanbatch.manifests.reading.arrow_types import EXACT_BELOW, IMAGE_FIELDS, is_binary, is_list
from wanbatch.manifests.reading.row_model import EMBEDDED, KNOWN
from wanbatch.manifests.reading.validation import RowChecker

A = TypeVar("A")
B = TypeVar("B")

Flags = bool | list[bool]
"""Whether the images of one row have bytes: the same for all, or for each."""

IMAGES = tuple(name for name, given in GIVEN.items() if given.kind in IMAGE_KINDS)
STRUCTS = (*IMAGES, *(name for name, given in GIVEN.items() if given.kind.parts and name not in IMAGES))


def check_rows(
    columns: Mapping[str, Sequence[Any]],
    count: int,
    checker: RowChecker,
    file: int,
    first: int,
    unread: Set[str] = frozenset(),
) -> None:
    """Hand rows to the checker.

    Args:
        columns: known columns by name, each with one value a row; None: not given.
        count: how many rows there are.
        checker: takes them.
        file, first: the file's index, and the position of the first row in it.
        unread: columns that the rows may have, but that cannot be read.
    """
    names = list(columns)
    rows = zip(*columns.values(), strict=True) if names else iter([()] * count)
    for offset, row in enumerate(rows):
        given = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        checker.add(given, file, first + offset, unread)


def known_values(name: str, column: pa.Array) -> list[Any]:
    """A known column as Python values.

    Decimals become numbers, in structs null keys and, of images, other fields than bytes and path are left out.

    Args:
        name: of the column, one of `KNOWN`.
        column: in its plain type.
    """
    assert name in KNOWN
    exact = EXACT_BELOW.get(column.type)
    if kinds.is_floating(column.type):
        column = column.cast(pa.float64())
    values = column.to_pylist()
    if kinds.is_decimal(_innermost(column.type)):
        values = [_number(value) for value in values]
    if exact is not None and kinds.is_integer(GIVEN[name].kind.type or pa.null()):
        values = [LostDigits(v) if v is not None and v.is_integer() and abs(v) >= exact else v for v in values]
    if name in STRUCTS:
        return [_without_nulls(value, name in IMAGES) for value in values]
    return values


def image_flags(column: pa.Array) -> list[Flags]:
    """Which images of each row have bytes. column: binary or struct<bytes>, or a list of these, in its plain type."""
    if not is_list(column.type):
        return pc.is_valid(_bytes_of(column)).to_pylist()
    flat = iter(pc.is_valid(_bytes_of(column.flatten())).to_pylist())
    lengths = pc.list_value_length(column).to_pylist()
    return [[next(flat) for _ in range(length or 0)] for length in lengths]


def image_paths(column: pa.Array) -> list[Any]:
    """A column of images that may be embedded without their bytes, as Python values; see `image_flags`."""
    if is_list(column.type):
        flat = iter(image_paths(column.flatten()))
        lengths = pc.list_value_length(column).to_pylist()
        return [None if length is None else [next(flat) for _ in range(length)] for length in lengths]
    if is_binary(column.type) or column.type.get_field_index("path") < 0:
        return [None if not valid else {} for valid in pc.is_valid(column).to_pylist()]
    paths = pc.struct_field(column, "path").to_pylist()
    return [{} if path is None else {"path": path} for path in paths]


def marked_images(values: Sequence[Any], flags: Sequence[Flags]) -> list[Any]:
    """The images of each row, with a mark in place of bytes.

    Args:
        values: the column without its bytes.
        flags: of the same rows.
    Raises:
        OSError: The two do not fit together, as in a damaged file.
    """
    return [_images(paths, here) for paths, here in _pairs(values, flags)]


def _bytes_of(column: pa.Array) -> pa.Array:
    return column if is_binary(column.type) else pc.struct_field(column, "bytes")


def _innermost(kind: pa.DataType) -> pa.DataType:
    return _innermost(kind.value_type) if is_list(kind) else kind


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _without_nulls(value: Any, image: bool) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item, image) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: v for k, v in value.items() if v is not None and (not image or k in IMAGE_FIELDS)}


def _images(paths: Any, flags: Flags) -> Any:
    """The image value of a row, with a mark in place of bytes. paths: the value without its bytes."""
    if isinstance(paths, list) or isinstance(flags, list):
        count = len(paths) if paths is not None else len(flags) if isinstance(flags, list) else 0
        items = paths if paths is not None else [{}] * count
        marks = flags if isinstance(flags, list) else [flags] * count
        return [_marked(item, mark) for item, mark in _pairs(items, marks)] or None
    return _marked(paths, flags) or None


def _marked(image: dict[str, Any] | None, has_bytes: bool) -> dict[str, Any]:
    return {**(image or {}), "bytes": EMBEDDED} if has_bytes else image or {}


def _pairs(one: Sequence[A], other: Sequence[B]) -> Iterator[tuple[A, B]]:
    """Raises OSError unless there are as many of both, as there are in a file that is not damaged."""
    if len(one) != len(other):
        raise OSError("a column of images has parts of different lengths")
    return zip(one, other, strict=True)
