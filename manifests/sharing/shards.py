"""The pictures of an output folder as few large Parquet files, of which a grown folder changes only the last.

Rows keep the order of the parts, and files are cut where they are full, so what comes later changes no earlier file.
Pages are cut by their content (content-defined chunking): where rows leave or come inside a file, the rest of its
bytes stay the same, and the Hub's storage knows them. The page index lets readers fetch single rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wanbatch.manifests.dataset.part_files import column_options
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.pictures import groups

SHARD_BYTES = 500_000_000
"""Bytes of pictures in a file, at most, unless one is larger alone."""

GROUP_ROWS = 100
GROUP_BYTES = 100_000_000
"""Of pictures in a row group, at most: viewers fetch a row group at a time."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file.

    Attributes:
        name: where it goes, like `data/train-00000.parquet`.
        path: where it is now.
        rows, bytes: how many.
        sha256: of its content, hex.
    """

    name: str
    path: Path
    rows: int
    bytes: int
    sha256: str


def shard_name(number: int) -> str:
    """Without the number of all files, which changes as a dataset grows."""
    return f"data/train-{number:05d}.parquet"


def write_shards(contents: Contents, folder: Path, shard_bytes: int = SHARD_BYTES) -> Iterator[Shard]:
    """Write the files one after the other; each may be removed before the next is asked for.

    Args:
        contents: what is written.
        folder: where to.
        shard_bytes: of pictures in a file.
    Raises:
        MachineryError: A part cannot be read. OSError: The disk refuses.
    """
    number, waiting = 0, _Waiting(shard_bytes)
    for group in groups(contents):
        for full in waiting.add(group):
            yield _written(full, number, folder)
            number += 1
    if waiting.tables:
        yield _written(waiting.tables, number, folder)


class _Waiting:
    """Row groups that wait for a file to be full."""

    def __init__(self, shard_bytes: int):
        self.shard_bytes = shard_bytes
        self.tables: list[pa.Table] = []
        self.bytes = 0

    def add(self, table: pa.Table) -> Iterator[list[pa.Table]]:
        """Yields the tables of each file that is full."""
        sizes = pc.binary_length(pc.struct_field(table["image"], "bytes")).to_pylist()
        start = 0
        for row, size in enumerate(sizes):
            if self.bytes and self.bytes + size > self.shard_bytes:
                self._keep(table.slice(start, row - start))
                yield self.tables
                self.tables, self.bytes, start = [], 0, row
            self.bytes += size
        self._keep(table.slice(start))

    def _keep(self, table: pa.Table) -> None:
        if len(table):
            self.tables.append(table)


def _written(tables: list[pa.Table], number: int, folder: Path) -> Shard:
    name = shard_name(number)
    path = folder / Path(name).name
    schema = tables[0].schema
    with pq.ParquetWriter(
        path,
        schema,
        **column_options(schema),
        write_page_index=True,
        use_content_defined_chunking=True,
    ) as writer:
        for group in _row_groups(pa.concat_tables(tables)):
            writer.write_table(group, row_group_size=len(group))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(name, path, sum(map(len, tables)), os.path.getsize(path), digest)


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    sizes = pc.binary_length(pc.struct_field(table["image"], "bytes")).to_pylist()
    start = taken = 0
    for row, size in enumerate(sizes):
        if row > start and (row - start == GROUP_ROWS or taken + size > GROUP_BYTES):
            yield table.slice(start, row - start)
            start, taken = row, 0
        taken += size
    yield table.slice(start)
