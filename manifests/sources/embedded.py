"""Images that are embedded in Parquet and Arrow manifests."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.manifests.records import Source
from wanbatch.manifests.storage.arrow_ipc import SUFFIXES as ARROW_SUFFIXES
from wanbatch.manifests.storage.arrow_ipc import ArrowFile
from wanbatch.manifests.storage.parquet_limits import column_chunks, open_parquet

WHOLE_GROUP_BYTES = 256 << 20
"""Row groups whose image column is larger than this are streamed, not kept in memory whole."""


class EmbeddedImages:
    """Reads image bytes out of Parquet and Arrow files, cheaply when sources come in the order of the file.

    Holds one file open and one row group's image column, or, where that column is large, a position in it. An Arrow
    file counts as one row group.
    """

    def __init__(self) -> None:
        self._position: tuple[str, int, str] | None = None  # file, row group, column
        self._file: pq.ParquetFile | ArrowFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = 0  # row of the batch's first value in its row group

    def read(self, source: Source) -> bytes:
        """The encoded bytes of an embedded image.

        Raises:
            LookupError: if there is no such image.
            OSError, ArrowException: if the file is damaged.
        """
        assert source.file is not None
        group, row = self._locate(source.file, source.row)
        self._seek((source.file, group, source.column), row)
        assert self._batch is not None
        value = self._batch.column(0)[row - self._first].as_py()
        image = value[source.item] if isinstance(value, list) else value
        data = image.get("bytes") if isinstance(image, dict) else image
        name = image.get("path") if isinstance(image, dict) else None
        if name is not None and source.path is not None and name != source.path:
            raise LookupError(f"{name} is there now: the file was changed after the manifest was read; run again")
        if data is None:
            raise LookupError("there is no image")
        return data

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._position, self._batch, self._batches = None, None, None, iter(())

    def _locate(self, path: str, row: int) -> tuple[int, int]:
        """(row group, row in it). Opens the file if another one is open."""
        if self._file is None or self._position is None or self._position[0] != path:
            self.close()
            self._file = ArrowFile(path) if path.lower().endswith(ARROW_SUFFIXES) else open_parquet(path)
        if isinstance(self._file, ArrowFile):
            return 0, row
        for group in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if row < rows:
                return group, row
            row -= rows
        raise LookupError("the file has fewer rows")

    def _seek(self, position: tuple[str, int, str], row: int) -> None:
        """Make `_batch` the one that holds this row; start over only to go back."""
        if position != self._position or self._batch is None or row < self._first:
            self._start(position)
        while self._batch is None or row >= self._first + len(self._batch):
            following = next(self._batches, None)  # may raise; nothing has moved then
            if following is None:
                raise LookupError("the row group is shorter than the file says")
            self._first += 0 if self._batch is None else len(self._batch)
            self._batch = following

    def _start(self, position: tuple[str, int, str]) -> None:
        assert self._file is not None
        path, group, column = position
        self._position, self._batch, self._first = position, None, 0
        if isinstance(self._file, ArrowFile):
            self._file.close()
            self._file = ArrowFile(path, [column])
            self._batches = self._file.batches()
            return
        rows = self._file.metadata.row_group(group).num_rows
        size = 16 if _column_bytes(self._file.metadata.row_group(group), column) > WHOLE_GROUP_BYTES else rows
        self._batches = self._file.iter_batches(batch_size=size, row_groups=[group], columns=[column])


def _column_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    """The size of a column with all its leaves, decoded."""
    return sum(c.total_uncompressed_size for c in column_chunks(group) if c.path_in_schema.split(".")[0] == column)
