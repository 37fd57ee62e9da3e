"""Parquet manifests: a file, or a folder of files with the same columns.

Embedded images stay in the file: only whether they are there is looked at. Extension types are refused, since
reading one may run code that the file names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types as kinds

from wanbatch.errors import UserError
from wanbatch.manifests import column_types
from wanbatch.manifests.columns import GIVEN
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.parquet_types import has_extension, type_rule
from wanbatch.manifests.reading.row_model import EMBEDDED, KNOWN
from wanbatch.manifests.reading.validation import RESERVED, Positions, RowChecker, bad_type, reserved_name
from wanbatch.manifests.records import huggingface_features
from wanbatch.manifests.storage.footer_check import require_readable
from wanbatch.manifests.storage.parquet_limits import (
    FOOTER_FROM,
    MAX_CELL_BYTES,
    Budget,
    batch_rows,
    column_chunks,
    open_parquet,
    read_footer,
    too_much,
    value_lengths,
)

A = TypeVar("A")
B = TypeVar("B")

SUFFIXES = (".parquet", ".pq")
BATCH = 4096
Flags = bool | list[bool]
"""Whether the images of one row have bytes: the same for all, or for each."""

IMAGES = tuple(name for name, given in GIVEN.items() if given.kind is column_types.IMAGES)
STRUCTS = (*IMAGES, *(name for name, given in GIVEN.items() if given.kind.parts and name not in IMAGES))


class Parquet:
    """A Parquet file, or a folder of Parquet files, read in the order of their names."""

    takes = f"a file that ends in {' or '.join(SUFFIXES)}, or a folder of such files"
    positions: Positions = "row"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        if not path.is_folder:
            return path.alone() if path.ends_in(SUFFIXES) else None
        names = [name for name in path.names if name.lower().endswith(SUFFIXES) and name[0] not in "_."]
        return path.folder_of(names) if names else None

    def read(self, files: Sequence[str], checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`.

        The digest is of the files' footers: it changes with the number of rows, their sizes and statistics, without
        reading all images.
        """
        return _read(files, checker)


def _read(paths: Sequence[str], checker: RowChecker) -> tuple[pa.Table, str]:
    digest = hashlib.sha256()
    schema: pa.Schema | None = None
    batches: list[pa.RecordBatch] = []
    budget = Budget()
    for index, path in enumerate(paths):
        with _readable(path):
            footer = read_footer(path)
            file = open_parquet(path)
        with file:
            digest.update(footer)
            with _readable(path):
                reader = _FileReader(path, index, file, checker, budget)
                require_readable(footer[FOOTER_FROM:])
                why = too_much(file.metadata, reader.unread)
            if why:
                raise UserError(f"{path}: {why}")
            if reader.columns_are_good(schema):
                schema = schema or reader.passthrough_schema()
                batches += reader.read(schema)
    return pa.Table.from_batches(batches, schema=schema or pa.schema([])), digest.hexdigest()


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into a UserError."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): write the file again") from error


class _FileReader:
    """One file of a manifest."""

    def __init__(self, path: str, index: int, file: pq.ParquetFile, checker: RowChecker, budget: Budget):
        self._path, self._index, self._file, self._checker, self._budget = path, index, file, checker, budget
        self._schema: pa.Schema = file.schema_arrow
        self._known = [name for name in self._schema.names if name in KNOWN]
        self._others = [name for name in self._schema.names if name not in KNOWN]

    def columns_are_good(self, expected: pa.Schema | None) -> bool:
        """Report what is wrong with the columns as such. expected: the passthrough columns of the other files."""
        wrong = list(self._column_problems(expected))
        for message in wrong:
            self._checker.problems.add(self._index, -1, message)
        return not wrong

    def read(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Check all rows; yields the passthrough columns, ordered like `schema`."""
        position = 0
        columns_to_read = self._columns_to_read()
        for group in range(self._file.metadata.num_row_groups):
            first = position
            size = batch_rows(self._file.metadata.row_group(group), columns_to_read, BATCH)
            embedded = {name: self._embedded(group, name) for name in self._known if self._leaf(name, "bytes")}
            for batch in self._batches(size, group, columns_to_read):
                self._check_sizes(batch, position)
                here = slice(position - first, position - first + len(batch))
                self._check(batch, position, {name: flags[here] for name, flags in embedded.items()})
                position += len(batch)
                columns = [batch.column(name) for name in schema.names]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    @property
    def unread(self) -> set[str]:
        """The leaf columns with the bytes of embedded images, which are not held."""
        return {leaf for name in IMAGES if (leaf := self._leaf(name, "bytes"))}

    def _check_sizes(self, batch: pa.RecordBatch, position: int) -> None:
        """Before anything is decoded: values that are too large, and what all of them take."""
        size = batch.nbytes
        for name in batch.schema.names:
            lengths = value_lengths(batch.column(name))
            if lengths is None or not len(lengths):
                continue
            size += pc.sum(lengths).as_py()
            if (largest := pc.max(lengths).as_py()) > MAX_CELL_BYTES:
                row = position + pc.index(lengths, largest).as_py()
                message = f"{name} has {largest} bytes; at most {MAX_CELL_BYTES} are taken: keep them in a file"
                self._checker.problems.add(self._index, row, message)
        self._budget.spend(self._path, size)

    def _column_problems(self, expected: pa.Schema | None) -> Iterator[str]:
        names = self._schema.names
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield f"column {name!r} is there {names.count(name)} times: keep one"
        for field in self._schema:
            if has_extension(field):
                yield f"column {field.name!r} has the extension type {field.type}: store it as a plain type"
            elif field.name in KNOWN and (rule := type_rule(field.name, field.type)):
                yield f"column {field.name!r} is {field.type}: must be {rule}; cast the column"
            elif field.name in RESERVED:
                yield reserved_name(field.name)
            elif field.name not in KNOWN and (why := bad_type(field.type)):
                yield f"column {field.name!r} {why}: simplify it"
        if expected is not None:
            yield from _differences(expected, self.passthrough_schema())

    def passthrough_schema(self) -> pa.Schema:
        """Without file-specific metadata; Hugging Face features of these columns are kept."""
        fields = [self._schema.field(name).remove_metadata() for name in self._others]
        noted = self._schema.metadata or {}
        kept = {b"huggingface": noted[b"huggingface"]} if huggingface_features(self._schema) else None
        return pa.schema(fields, metadata=kept)

    def _leaf(self, name: str, leaf: str) -> str | None:
        """The Parquet path of `bytes` or `path` in an image column; None if the column has no such leaf."""
        paths = (self._file.metadata.schema.column(i).path for i in range(len(self._file.metadata.schema)))
        is_leaf = name in IMAGES and name in self._known
        return next((p for p in paths if is_leaf and p.startswith(f"{name}.") and p.endswith(f".{leaf}")), None)

    def _columns_to_read(self) -> list[str] | None:
        """All columns but the bytes of images; None means all."""
        skipped = self.unread
        paths = (self._file.metadata.schema.column(i).path for i in range(len(self._file.metadata.schema)))
        return [path for path in paths if path not in skipped] if skipped else None

    def _embedded(self, group: int, name: str) -> list[Flags]:
        """For each row of a row group: which of its images have bytes.

        The file's statistics often say it for all; else the column is read through in small batches.
        """
        leaf = self._leaf(name, "bytes")
        assert leaf is not None
        metadata = self._file.metadata.row_group(group)
        column = next(c for c in column_chunks(metadata) if c.path_in_schema == leaf)
        counted = column.statistics is not None and column.statistics.has_null_count
        if counted and self._leaf(name, "path") and column.statistics.null_count in (0, column.num_values):
            return [column.statistics.null_count == 0] * metadata.num_rows
        flags: list[Flags] = []
        for batch in self._batches(32, group, [leaf]):
            flags.extend(_byte_flags(batch.column(0)))
        return flags

    def _batches(self, size: int, group: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        batches = self._file.iter_batches(size, row_groups=[group], columns=columns)
        while True:
            with _readable(self._path):
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
            yield batch

    def _check(self, batch: pa.RecordBatch, position: int, embedded: dict[str, list[Flags]]) -> None:
        columns = []
        for name in self._known:
            values = _plain(name, batch.column(name)) if name in batch.schema.names else [None] * len(batch)
            if name in embedded:
                with _readable(self._path):
                    values = [_images(paths, flags) for paths, flags in _pairs(values, embedded[name])]
            columns.append(values)
        rows = zip(*columns, strict=True) if columns else iter([()] * len(batch))
        for offset, row in enumerate(rows):
            given = {name: value for name, value in zip(self._known, row, strict=True) if value is not None}
            self._checker.add(given, self._index, position + offset)


def _plain(name: str, column: pa.Array) -> list[Any]:
    """The column as Python values; in structs, null keys are left out."""
    if kinds.is_floating(column.type):
        column = column.cast(pa.float64())
    values = column.to_pylist()
    if name in STRUCTS:
        return [_without_nulls(value) for value in values]
    return values


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _byte_flags(column: pa.Array) -> list[Flags]:
    """Which images of each row have bytes; column: struct<bytes> or a list of it."""
    if kinds.is_struct(column.type):
        return pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    flat = iter(pc.is_valid(pc.struct_field(column.flatten(), "bytes")).to_pylist())
    lengths = pc.list_value_length(column).to_pylist()
    return [[next(flat) for _ in range(length or 0)] for length in lengths]


def _images(paths: Any, flags: Flags) -> Any:
    """The image value of a row, with a mark in place of bytes. paths: the value without its bytes."""
    if isinstance(paths, list) or isinstance(flags, list):
        count = len(paths) if paths is not None else len(flags) if isinstance(flags, list) else 0
        items = paths if paths is not None else [{}] * count
        marks = flags if isinstance(flags, list) else [flags] * count
        return [_marked(item, mark) for item, mark in _pairs(items, marks)] or None
    return _marked(paths, flags) or None


def _pairs(one: Sequence[A], other: Sequence[B]) -> Iterator[tuple[A, B]]:
    """Raises OSError unless there are as many of both, as there are in a file that is not damaged."""
    if len(one) != len(other):
        raise OSError("a column of images has parts of different lengths")
    return zip(one, other, strict=True)


def _marked(image: dict[str, Any] | None, has_bytes: bool) -> dict[str, Any]:
    return {**(image or {}), "bytes": EMBEDDED} if has_bytes else image or {}


def _differences(expected: pa.Schema, schema: pa.Schema) -> Iterator[str]:
    """How the passthrough columns of a file differ from those of the folder's first file."""
    for name in expected.names:
        if name not in schema.names:
            yield f"has no column {name!r}, which the folder's first file has: make the columns equal"
        elif schema.field(name).type != expected.field(name).type:
            types = f"{schema.field(name).type}, but {expected.field(name).type} in the folder's first file"
            yield f"column {name!r} is {types}: cast it"
    for name in schema.names:
        if name not in expected.names:
            yield f"column {name!r} is not in the folder's first file: make the columns equal"
