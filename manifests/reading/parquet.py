"""Parquet manifests: a file, or a folder of files, whose columns are unified.

Embedded images stay in the file: only whether they are there is looked at. Extension types are refused, since
reading one may run code that the file names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wanbatch.errors import UserError
from wanbatch.manifests.reading.arrow_types import (
    has_extension,
    holds_binary,
    plain_batch,
    plain_type,
    type_rule,
    unused_fields,
)
from wanbatch.manifests.reading.arrow_values import (
    IMAGES,
    Flags,
    check_rows,
    image_flags,
    known_values,
    marked_images,
)
from wanbatch.manifests.reading.column_names import if_own
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.partitions import partitions_of, with_inferred_types
from wanbatch.manifests.reading.row_model import KNOWN
from wanbatch.manifests.reading.text_values import BadTextError, known_value
from wanbatch.manifests.reading.unified import unified
from wanbatch.manifests.reading.validation import RESERVED, Positions, RowChecker, bad_type, reserved_name
from wanbatch.manifests.records import feature_metadata, huggingface_features
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

SUFFIXES = (".parquet", ".pq")
BATCH = 4096


class Parquet:
    """A Parquet file, or a folder of Parquet files, read in the order of their names."""

    takes = f"a file that ends in {' or '.join(SUFFIXES)}, or a folder of such files"
    positions: Positions = "row"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        return path.alone_or_all(SUFFIXES)

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`.

        The digest is of the files' footers and of what their folders are called: it changes with the number of rows,
        their sizes and statistics, without reading all images.
        """
        digest = hashlib.sha256()
        tables: list[pa.Table] = []
        partitions: set[str] = set()
        budget = Budget()
        for index, path in enumerate(found.files):
            partition = partitions_of(found.relative(index))
            with _readable(path):
                footer = read_footer(path)
                file = open_parquet(path)
            with file:
                digest.update(footer)
                with _readable(path):
                    reader = _FileReader(path, index, file, checker, budget, partition)
                    require_readable(footer[FOOTER_FROM:])
                    why = too_much(file.metadata, reader.unread)
                if why:
                    raise UserError(f"{path}: {why}")
                if reader.columns_are_good():
                    tables.append(pa.Table.from_batches(reader.read(), schema=reader.passthrough_schema()))
            if partition:
                digest.update(repr(sorted(partition.items())).encode())
                partitions.update(map(checker.name_of, partition))
        rows = unified(tables, checker.problems) if tables else pa.table({})
        return with_inferred_types(rows, partitions), digest.hexdigest()


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

    def __init__(
        self,
        path: str,
        index: int,
        file: pq.ParquetFile,
        checker: RowChecker,
        budget: Budget,
        partition: Mapping[str, str | None],
    ):
        self._path, self._index, self._file, self._checker, self._budget = path, index, file, checker, budget
        self._stored = {checker.name_of(name): name for name in file.schema_arrow.names}
        self._schema = _renamed(file.schema_arrow, checker)
        self._constants = {checker.name_of(name): value for name, value in partition.items()}
        for name in self._schema.names:
            self._constants.pop(name, None)  # some tools write these columns into the files, too
        self._known = [name for name in self._schema.names if name in KNOWN]
        self._others = [name for name in self._schema.names if name not in KNOWN]

    def columns_are_good(self) -> bool:
        """Report what is wrong with the columns as such."""
        wrong = list(self._column_problems())
        for message in wrong:
            self._checker.problems.add(self._index, -1, message)
        for name in (name for name in self._known if name in IMAGES):
            if unused := unused_fields(self._schema.field(name).type):
                said = f"only bytes and path of column {name!r} are used, not {', '.join(unused)}"
                self._checker.problems.warn(self._index, said)
        return not wrong

    def read(self) -> Iterator[pa.RecordBatch]:
        """Check all rows; yields the passthrough columns (`passthrough_schema`)."""
        position = 0
        columns_to_read = self._columns_to_read()
        schema = self.passthrough_schema()
        for group in range(self._file.metadata.num_row_groups):
            first = position
            size = batch_rows(self._file.metadata.row_group(group), columns_to_read, BATCH)
            embedded = {name: self._embedded(group, name) for name in self._known if self._leaf(name, "bytes")}
            for batch in self._batches(size, group, columns_to_read):
                self._check_sizes(batch, position)
                here = slice(position - first, position - first + len(batch))
                self._check(batch, position, {name: flags[here] for name, flags in embedded.items()})
                position += len(batch)
                columns = [batch.column(name) for name in self._others]
                columns += [pa.repeat(value, len(batch)) for value in self._passed_constants().values()]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    @property
    def unread(self) -> set[str]:
        """The leaf columns with the bytes of embedded images, which are not held, and what is beside them."""
        schema = self._file.metadata.schema
        paths = (schema.column(i).path for i in range(len(schema)))
        kept = {self._leaf(name, "path"): None for name in IMAGES}
        images = [f"{self._stored[name]}" for name in IMAGES if self._leaf(name, "bytes") or self._has_fields(name)]
        return {path for path in paths if path not in kept and any(_is_within(path, name) for name in images)}

    def _has_fields(self, name: str) -> bool:
        return name in self._known and bool(unused_fields(self._schema.field(name).type))

    def _passed_constants(self) -> dict[str, pa.Scalar]:
        """The partition columns that pass through, as text."""
        return {n: pa.scalar(v, pa.string()) for n, v in self._constants.items() if n not in KNOWN}

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

    def _column_problems(self) -> Iterator[str]:
        names = self._schema.names
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield f"column {name!r} is there {names.count(name)} times: keep one"
        for field in self._schema:
            if has_extension(field):
                yield f"column {field.name!r} has the extension type {field.type}: store it as a plain type"
            elif field.name in KNOWN and (rule := type_rule(field.name, field.type)):
                yield f"column {field.name!r} is {field.type}: must be {rule}; cast the column{if_own(field.name)}"
            elif field.name in RESERVED:
                yield reserved_name(field.name)
            elif field.name not in KNOWN and (why := bad_type(field.type)):
                yield f"column {field.name!r} {why}: simplify it"
        for name, value in self._constants.items():
            if name in RESERVED:
                yield reserved_name(name)
            elif name in KNOWN and value is not None:
                try:
                    known_value(name, value)
                except BadTextError as error:
                    yield str(error)

    def passthrough_schema(self) -> pa.Schema:
        """Without file-specific metadata; Hugging Face features of these columns are kept."""
        fields = [self._schema.field(name).remove_metadata() for name in self._others]
        fields += [pa.field(name, pa.string()) for name in self._passed_constants()]
        noted = self._schema.metadata or {}
        kept = {b"huggingface": noted[b"huggingface"]} if huggingface_features(self._schema) else None
        return pa.schema(fields, metadata=kept)

    def _leaf(self, name: str, leaf: str) -> str | None:
        """The Parquet path of `bytes` or `path` in an image column; None if the column has no such leaf."""
        if name not in IMAGES or name not in self._known:
            return None
        stored, schema = self._stored[name], self._file.metadata.schema
        paths = [path for i in range(len(schema)) if _is_within(path := schema.column(i).path, stored)]
        if holds_binary(self._schema.field(name).type):
            return paths[0] if leaf == "bytes" else None
        return next((path for path in paths if path.endswith(f".{leaf}")), None)

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
            flags.extend(image_flags(batch.column(0)))
        return flags

    def _batches(self, size: int, group: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        if columns == []:  # of which pyarrow reads no batches: every column is one of bytes
            rows = self._file.metadata.row_group(group).num_rows
            yield pa.RecordBatch.from_arrays([pa.nulls(rows)], [""])
            return
        batches = self._file.iter_batches(size, row_groups=[group], columns=columns)
        while True:
            with _readable(self._path):
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
                batch = plain_batch(batch)
            yield batch.rename_columns([self._checker.name_of(name) for name in batch.schema.names])

    def _check(self, batch: pa.RecordBatch, position: int, embedded: dict[str, list[Flags]]) -> None:
        columns: dict[str, Sequence[Any]] = {}
        for name in self._known:
            values = known_values(name, batch.column(name)) if name in batch.schema.names else [None] * len(batch)
            if name in embedded:
                with _readable(self._path):
                    values = marked_images(values, embedded[name])
            columns[name] = values
        for name, value in self._constants.items():
            if name in KNOWN:
                columns[name] = [None if value is None else known_value(name, value)] * len(batch)
        check_rows(columns, len(batch), self._checker, self._index, position)


def _renamed(schema: pa.Schema, checker: RowChecker) -> pa.Schema:
    """A file's schema in plain types, with the names under which its columns are read, features of `datasets` too."""
    fields = [field.with_name(checker.name_of(field.name)).with_type(plain_type(field.type)) for field in schema]
    noted = {checker.name_of(name): feature for name, feature in huggingface_features(schema).items()}
    return pa.schema(fields, feature_metadata(noted) if noted else None)


def _is_within(path: str, column: str) -> bool:
    """Whether a leaf is a column or in it."""
    return path == column or path.startswith(f"{column}.")
