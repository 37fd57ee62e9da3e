"""Parquet manifests: a file, or a folder of files, whose columns are unified.

Embedded images stay in the file: only whether they are there is looked at. Extension types are refused, since
reading one may run code that the file names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.errors import UserError
from wanbatch.manifests.reading.arrow_columns import FileColumns
from wanbatch.manifests.reading.arrow_types import (
    holds_binary,
    plain_batch,
    unused_fields,
)
from wanbatch.manifests.reading.arrow_values import (
    IMAGES,
    Flags,
    image_flags,
    known_values,
)
from wanbatch.manifests.reading.damage import readable
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.partitions import with_inferred_types
from wanbatch.manifests.reading.unified import unified
from wanbatch.manifests.reading.validation import Positions, RowChecker
from wanbatch.manifests.storage.footer_check import require_readable
from wanbatch.manifests.storage.parquet_limits import (
    FOOTER_FROM,
    Budget,
    batch_rows,
    column_chunks,
    open_parquet,
    read_footer,
    too_much,
)

SUFFIXES = (".parquet", ".pq")
BATCH = 4096


class Parquet:
    """A Parquet file, or a folder of Parquet files, read in the order of their names."""

    takes = f"Parquet ({', '.join(SUFFIXES)})"
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
            partition = found.constants_of(index)
            with readable(path, "Parquet"):
                footer = read_footer(path)
                file = open_parquet(path)
            with file:
                digest.update(footer)
                with readable(path, "Parquet"):
                    reader = _FileReader(path, index, file, checker, budget, partition)
                    require_readable(footer[FOOTER_FROM:])
                    why = too_much(file.metadata, reader.unread)
                if why:
                    raise UserError(f"{path}: {why}")
                reader.columns.report()
                if reader.can_leave_out_refused:
                    tables.append(pa.Table.from_batches(reader.read(), schema=reader.columns.passthrough_schema()))
            if partition:
                digest.update(repr(sorted(partition.items())).encode())
                partitions.update(map(checker.name_of, partition))
        rows = unified(tables, checker.problems) if tables else pa.table({})
        return with_inferred_types(rows, partitions), digest.hexdigest()


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
        self._path, self._file, self._checker, self._budget = path, file, checker, budget
        self.columns = FileColumns(index, file.schema_arrow, checker, partition)

    @property
    def can_leave_out_refused(self) -> bool:
        """Whether the other columns can be read alone: dots in names of columns are also between parts of paths."""
        return not (self.columns.refused and any("." in name for name in self._file.schema_arrow.names))

    def read(self) -> Iterator[pa.RecordBatch]:
        """Check all rows; yields the columns that pass through."""
        position = 0
        columns_to_read = self._columns_to_read()
        for group in range(self._file.metadata.num_row_groups):
            first = position
            size = batch_rows(self._file.metadata.row_group(group), columns_to_read, BATCH)
            embedded = {name: self._embedded(group, name) for name in self.columns.known if self._leaf(name, "bytes")}
            for batch in self._batches(size, group, columns_to_read):
                names = [name for name in batch.schema.names if name]
                self._budget.spend(self._path, self.columns.check_sizes(batch, position, names))
                here = slice(position - first, position - first + len(batch))
                values = {n: known_values(n, batch.column(n)) for n in self.columns.known if n in names}
                with readable(self._path, "Parquet"):
                    flags = {name: every[here] for name, every in embedded.items()}
                    self.columns.check(values, flags, len(batch), position)
                position += len(batch)
                yield self.columns.passthrough(batch)

    @property
    def unread(self) -> set[str]:
        """The leaf columns with the bytes of embedded images, which are not held, and what is beside them."""
        schema = self._file.metadata.schema
        paths = (schema.column(i).path for i in range(len(schema)))
        kept = {self._leaf(name, "path"): None for name in IMAGES}
        images = [
            f"{self.columns.stored[name]}" for name in IMAGES if self._leaf(name, "bytes") or self._has_fields(name)
        ]
        return {path for path in paths if path not in kept and any(_is_within(path, name) for name in images)}

    def _has_fields(self, name: str) -> bool:
        return name in self.columns.known and bool(unused_fields(self.columns.schema.field(name).type))

    def _leaf(self, name: str, leaf: str) -> str | None:
        """The Parquet path of `bytes` or `path` in an image column; None if the column has no such leaf."""
        if name not in IMAGES or name not in self.columns.known:
            return None
        stored, schema = self.columns.stored[name], self._file.metadata.schema
        paths = [path for i in range(len(schema)) if _is_within(path := schema.column(i).path, stored)]
        if holds_binary(self.columns.schema.field(name).type):
            return paths[0] if leaf == "bytes" else None
        return next((path for path in paths if path.endswith(f".{leaf}")), None)

    def _columns_to_read(self) -> list[str] | None:
        """All columns but the bytes of images and those that something is wrong with; None means all."""
        skipped = self.unread | self._refused_leaves()
        paths = (self._file.metadata.schema.column(i).path for i in range(len(self._file.metadata.schema)))
        return [path for path in paths if path not in skipped] if skipped else None

    def _refused_leaves(self) -> set[str]:
        """The leaf columns of those that something is wrong with."""
        refused = [n for n in self._file.schema_arrow.names if self._checker.name_of(n) in self.columns.refused]
        schema = self._file.metadata.schema
        paths = (schema.column(i).path for i in range(len(schema)))
        return {path for path in paths if any(_is_within(path, name) for name in refused)}

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
            with readable(self._path, "Parquet"):
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
                batch = plain_batch(batch)
            yield batch.rename_columns([self._checker.name_of(name) for name in batch.schema.names])


def _is_within(path: str, column: str) -> bool:
    """Whether a leaf is a column or in it."""
    return path == column or path.startswith(f"{column}.")
