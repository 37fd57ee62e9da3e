"""What a Parquet file of a stranger may cost before anything of it is believed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wanbatch.errors import UserError
from wanbatch.manifests.storage.urls import is_url, open_file

MAX_FOOTER = 64 << 20
MAX_LEAVES = 1000
MAX_DEPTH = 32
MAX_ROWS = 50_000_000
MAX_GROUP_BYTES = 2 << 30
"""Of one row group without the bytes of embedded images, decoded."""
MAX_GROUP_VALUES = 64_000_000
"""Of one column in one row group: a list of nulls takes nothing in the file, but memory once it is read."""
BATCH_BYTES = 256 << 20
"""What a batch of rows may grow to when all of them repeat the largest value of a dictionary."""
MAX_KEPT_BYTES = 4 << 30
"""Of the whole manifest without embedded images, decoded."""
MAX_CELL_BYTES = 8 << 20
"""Of one value of a row, as for a line of JSONL."""

THRIFT_STRING = 16 << 20
THRIFT_CONTAINER = 1_000_000

BUFFER = 1 << 20


def open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file by absolute path or URL, with limits on its metadata. Raises OSError or ArrowException."""
    source: Any = open_file(path, BUFFER) if is_url(path) else path
    return pq.ParquetFile(
        source,
        page_checksum_verification=True,
        pre_buffer=False,
        buffer_size=BUFFER,
        thrift_string_size_limit=THRIFT_STRING,
        thrift_container_size_limit=THRIFT_CONTAINER,
    )


class Budget:
    """Counts what a manifest takes in memory."""

    def __init__(self, most: int = MAX_KEPT_BYTES):
        self.left, self.most = most, most

    def spend(self, path: str, size: int) -> None:
        """Raises UserError, naming the file, if it is too much."""
        self.left -= size
        if self.left < 0:
            raise UserError(f"{path}: holds more than {self.most} bytes besides images: split the manifest")


def too_much(metadata: pq.FileMetaData, unread: set[str]) -> str | None:
    """Why a file is refused by what its metadata says, or None. unread: leaf columns whose bytes are not read."""
    if metadata.num_columns > MAX_LEAVES:
        return f"has {metadata.num_columns} columns; at most {MAX_LEAVES} are read: drop some"
    if metadata.num_rows > MAX_ROWS:
        return f"has {metadata.num_rows} rows; at most {MAX_ROWS} are read: split it"
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    for group in range(metadata.num_row_groups):
        everything = list(column_chunks(metadata.row_group(group)))
        if [chunk.path_in_schema for chunk in everything] != leaves:
            return f"row group {group} has other columns than the file: write it again"
        chunks = [chunk for chunk in everything if chunk.path_in_schema not in unread]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        if size > MAX_GROUP_BYTES or any(chunk.num_values > MAX_GROUP_VALUES for chunk in chunks):
            return f"row group {group} holds {size} bytes: write smaller row groups (at most {MAX_GROUP_BYTES} bytes)"
    return None


def batch_rows(group: pq.RowGroupMetaData, columns: Collection[str] | None, most: int) -> int:
    """How many rows to read at a time, so that repeated values of a dictionary stay within memory."""
    chunks = (c for c in column_chunks(group) if columns is None or c.path_in_schema in columns)
    largest = max((c.total_uncompressed_size for c in chunks if c.has_dictionary_page), default=1)
    return max(1, min(most, BATCH_BYTES // max(1, largest)))


def value_lengths(column: pa.Array) -> pa.Array | None:
    """Bytes of each value of a column of texts or bytes, also if it is a dictionary's; None for other types."""
    if pa.types.is_dictionary(column.type):
        lengths = value_lengths(column.dictionary)
        return None if lengths is None else pc.fill_null(lengths.take(column.indices), 0)
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())
    return None


def column_chunks(group: pq.RowGroupMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    """The leaf columns of a row group."""
    return (group.column(i) for i in range(group.num_columns))


FOOTER_FROM = 8
"""Where the metadata begins in what `read_footer` returns."""


def read_footer(path: str) -> bytes:
    """The file's metadata as it is stored, after the file's size. Raises OSError, or UserError if it is huge."""
    with open_file(path, BUFFER) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little") if tail[4:] == b"PAR1" else 0
        if size > length > MAX_FOOTER:
            raise UserError(f"{path}: its metadata has {length} bytes; at most {MAX_FOOTER} are read: write it again")
        file.seek(max(0, size - 8 - length))
        return size.to_bytes(FOOTER_FROM, "little") + file.read()
