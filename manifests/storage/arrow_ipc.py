"""Arrow IPC files, in the stream or in the file format: a batch at a time, from a disk without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from wanbatch.manifests.storage.urls import is_url, open_file

SUFFIXES = (".arrow", ".feather", ".ipc")
BUFFER = 1 << 20
MAGIC = b"ARROW1"
"""What a file in the file format begins with; one in the stream format has no such mark."""


class ArrowFile:
    """An open file; a context manager.

    Attributes:
        schema: of the columns that are read.
        size: of the file, in bytes.
    """

    def __init__(self, path: str, columns: Sequence[str] | None = None):
        """Open a file.

        Args:
            path: absolute, or a URL.
            columns: the names of those to read; None: all.
        Raises:
            OSError, ArrowException: It cannot be read, or is no such file. KeyError: It has no such column.
        """
        self._source: Any = pa.PythonFile(open_file(path, BUFFER), "r") if is_url(path) else pa.memory_map(path)
        try:
            self.size: int = self._source.size()
            self._reader = self._open(None)
            if columns is not None:
                indices = [self._reader.schema.get_field_index(name) for name in columns]
                if min(indices) < 0:
                    raise KeyError(f"there are no columns {columns}")
                self._reader = self._open(indices)
        except BaseException:
            self._source.close()
            raise
        self.schema: pa.Schema = self._reader.schema

    def __enter__(self) -> ArrowFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The batches of rows, once. Raises OSError or ArrowException on damage."""
        if isinstance(self._reader, pa.RecordBatchFileReader):
            yield from (self._reader.get_batch(index) for index in range(self._reader.num_record_batches))
        else:
            yield from self._reader

    def _open(self, columns: list[int] | None) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
        self._source.seek(0)
        in_file_format = self._source.read(len(MAGIC)) == MAGIC
        self._source.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=columns)
        return (pa.ipc.open_file if in_file_format else pa.ipc.open_stream)(self._source, options=options)
