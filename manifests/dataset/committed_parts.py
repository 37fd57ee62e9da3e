"""The committed parts of an output folder as tables, read without its lock, so also while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.manifests.dataset.commit_log import CommitLog
from wanbatch.manifests.dataset.committed import part_of
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.part_files import KINDS
from wanbatch.manifests.dataset.rewrite import damage_is_to_be_repaired
from wanbatch.manifests.dataset.settled_log import read_settled_log
from wanbatch.manifests.storage.backend import StorageBackend, open_backend

PART, POSITION = "part_index", "position_in_part"
"""Columns that `CommittedParts.table` adds: which of the parts a row is in, and its place there, from 0."""

LOCAL_THREADS = 4
BATCH_ROWS = 4
READ_BUFFER = 256 << 10
"""Bytes that are read at a time of a column, so that pictures behind the wanted ones are not read."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CommittedParts:
    """The parts that count, of each kind.

    Attributes:
        names: kind -> names of its parts, relative to the folder, in their order.
        finished: ids that are made or have failed.
    """

    backend: StorageBackend
    names: Mapping[str, tuple[str, ...]]
    finished: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: str | Path) -> CommittedParts:
        """Find the committed parts of an output folder.

        Args:
            path: of the folder, or its URL.

        Raises:
            UserError: A committed part is not there as it was committed, or a record is damaged.
            MachineryError: The folder cannot be read.
        """
        backend = open_backend(path)
        try:
            log = read_settled_log(backend, KINDS)
        except OSError as error:
            raise machinery_error(str(path), error, reading=True) from error
        return cls.of_log(backend, log)

    @classmethod
    def of_log(cls, backend: StorageBackend, log: CommitLog) -> CommittedParts:
        """The parts that the commits of a folder name, which are read already."""
        ordered = sorted(log.parts, key=part_of)
        finished = frozenset(log.committed.made).union(log.committed.failed)
        return cls(backend, {kind: tuple(n for n in ordered if part_of(n)[0] == kind) for kind in KINDS}, finished)

    def bytes_of(self, kind: str) -> int:
        """The bytes of all parts of a kind.

        Raises:
            MachineryError: They cannot be listed.
        """
        try:
            sizes = self.backend.sizes(kind)
        except OSError as error:
            raise machinery_error(self.backend.location(kind), error, reading=True) from error
        return sum(sizes.get(name, 0) for name in self.names[kind])

    def schema(self, kind: str) -> pa.Schema | None:
        """The columns of the last part of a kind; None if there is none."""
        return self._read(self.names[kind][-1], lambda part: part.schema_arrow) if self.names[kind] else None

    def table(self, kind: str, columns: Sequence[str]) -> pa.Table | None:
        """Some columns of all parts of a kind, with `PART` and `POSITION`; None if there are no parts.

        Columns that no part has are left out; those that some parts lack are null there.

        Raises:
            UserError: A part is damaged. MachineryError: It cannot be read.
        """
        if not self.names[kind]:
            return None

        def read(index: int) -> pa.Table:
            table = self._read(self.names[kind][index], lambda part: _columns_of(part, columns))
            table = table.append_column(PART, pa.array([index] * len(table), pa.int32()))
            return table.append_column(POSITION, pa.array(range(len(table)), pa.int32()))

        with ThreadPoolExecutor(self._threads) as pool:
            tables = list(pool.map(read, range(len(self.names[kind]))))
        return pa.concat_tables(tables, promote_options="permissive")

    def rows(
        self,
        wanted: Mapping[int, Sequence[int]],
        convert: Callable[[dict[str, Any]], T],
        max_bytes: int | None = None,
    ) -> list[T]:
        """Whole rows of `data/`, pictures included, each handed to a function as it is read.

        Args:
            wanted: index of a part -> places in it.
            convert: is given each row; threads call it side by side.
            max_bytes: pictures that are read in all, those before wanted ones included; what would take more is
                left out. None: any number.

        Returns:
            What `convert` gave, in the order of parts and places.

        Raises:
            UserError: A part is damaged elsewhere than in its pictures, which are handed on as they are.
            MachineryError: It cannot be read.
        """
        share = None if max_bytes is None else max_bytes // max(1, len(wanted))

        def read(index: int) -> list[T]:
            name, places = self.names["data"][index], frozenset(wanted[index])
            return self._read(name, lambda part: [convert(row) for row in _rows_of(part, places, share)], False)

        with ThreadPoolExecutor(self._threads) as pool:
            return [row for rows in pool.map(read, sorted(wanted)) for row in rows]

    @property
    def _threads(self) -> int:
        return max(LOCAL_THREADS, self.backend.max_concurrency)

    def _read(self, name: str, look: Callable[[pq.ParquetFile], T], check_pages: bool = True) -> T:
        options = {"buffer_size": READ_BUFFER, "pre_buffer": False, "page_checksum_verification": check_pages}
        with opened_part(self.backend, name, **options) as part:
            return look(part)


@contextmanager
def opened_part(backend: StorageBackend, name: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """A part of a folder, while it is read; its pages are compared with their checksums.

    Args:
        backend: the folder.
        name: of the part, relative to the folder.
        options: others than these, as `ParquetFile` takes them.

    Raises:
        UserError: It is damaged. MachineryError: It cannot be read, or is gone, as while a run replaces it.
    """
    try:
        with damage_is_to_be_repaired(backend, name):
            try:
                with (
                    backend.open(name) as file,
                    pq.ParquetFile(file, **{"page_checksum_verification": True, **options}) as part,
                ):
                    yield part
            except FileNotFoundError as error:
                raise machinery_error(backend.location(name), error, reading=True) from error
    except OSError as error:
        raise machinery_error(backend.location(name), error, reading=True) from error


def _columns_of(part: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    there = [name for name in columns if name in part.schema_arrow.names]
    return part.read(columns=there, use_threads=False).replace_schema_metadata(None)


def _rows_of(part: pq.ParquetFile, places: frozenset[int], max_bytes: int | None) -> Iterator[dict[str, Any]]:
    """The rows at some places, one after the other; reading ends with the last, or at the limit."""
    first, read = 0, 0
    for group in range(part.metadata.num_row_groups):
        rows = part.metadata.row_group(group).num_rows
        left = {place for place in places if first <= place < first + rows}
        place = first
        first += rows
        if not left:
            continue
        for batch in part.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False):
            read += batch.nbytes
            for index in range(len(batch)):
                if place + index in left:
                    yield batch.slice(index, 1).to_pylist()[0]
                    left.discard(place + index)
            place += len(batch)
            if not left:
                break
            if max_bytes is not None and read > max_bytes:
                return
