"""Parts: the Parquet files of the output. Written by workers as attempts, verified by the driver."""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, PyFileSystem

from wanbatch.counting import number_of
from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.committed import part_of
from wanbatch.manifests.dataset.disk_errors import first_line, is_of_the_disk, machinery_error
from wanbatch.manifests.records import (
    DATA_SCHEMA,
    FAILURE_SCHEMA,
    TIMING_SCHEMA,
    Failure,
    Timing,
    failure_table,
    timing_table,
)
from wanbatch.manifests.storage.atomic_files import named
from wanbatch.manifests.storage.backend import StorageBackend, open_backend
from wanbatch.manifests.storage.fsspec_io import file_system
from wanbatch.manifests.storage.urls import is_url

KINDS = ("data", "timings", "failures")
ROW_GROUP = 100
"""Rows in a row group: few, because viewers and loaders fetch images a row group at a time."""

TMP = "_wanbatch/tmp"

_PART = re.compile(r"part-\d{5,}\.parquet")
_DIGEST = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try of a unit wrote to `_wanbatch/tmp/`; small, to be sent from worker to driver.

    Attributes:
        unit: the number of the unit.
        attempt: a token that no other try of this unit has.
        names: kind (`data`, ...) -> file name in `tmp`.
        sha256: kind -> hash of the bytes as they were written, hex.
        made: the ids that have an image, in the order of the files.
        failed: (id, error class) of those that have none, in the order of the file.
        digests: id -> digest of the row that asked for it, of the ids that have one.
    """

    unit: int
    attempt: str
    names: Mapping[str, str]
    sha256: Mapping[str, str]
    made: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many ids end with this attempt."""
        return len(self.made) + len(self.failed)

    def ids(self, kind: str) -> tuple[str, ...]:
        """The ids that the file of a kind must hold."""
        return tuple(name for name, _ in self.failed) if kind == "failures" else self.made

    def all_ids(self) -> tuple[str, ...]:
        """The ids of all rows: made ones, then failed ones."""
        return self.made + self.ids("failures")


def write_attempt(
    root: str | Path,
    unit: int,
    attempt: str,
    data: pa.Table | None,
    timings: Sequence[Timing],
    failures: Sequence[Failure],
    digests: Mapping[str, str] | None = None,
) -> Attempt:
    """Write what a unit gave to the output folder's `_wanbatch/tmp/`. Publishes nothing; needs no lock.

    Args:
        root: the output folder, a path or a URL.
        attempt: letters, digits and `-`; another one for each try of the unit.
        data: from `data_table`, or None if every row failed.
        timings: one for each row of `data`, in the same order. Their `write_seconds` are filled in here: each
            row's share of the time that writing the data took.
        digests: id -> what changes when the row that asks for it does (1 to 128 printable characters);
            recorded with the commit, `Committed.made[id]` has it.
    Raises:
        ValueError: if these do not fit together.
        MachineryError: if the disk or the store refuses. Nothing is left behind then.
    """
    timed, failed = timing_table(timings), failure_table(failures)
    _check_fit(attempt, data, timed, failed, digests or {})
    made = tuple(data["id"].to_pylist()) if data is not None else ()
    classes = tuple(zip(failed["id"].to_pylist(), failed["error_class"].to_pylist(), strict=True))
    backend = open_backend(root)
    names: dict[str, str] = {}
    hashes: dict[str, str] = {}
    try:
        begin = time.perf_counter()
        for kind, table in (("data", data), ("timings", timed), ("failures", failed)):
            if table is None or not len(table):
                continue
            if kind == "timings":
                table = _with_write_seconds(timed, (time.perf_counter() - begin) / len(timed))
            name = f"{unit:05d}-{attempt}-{kind}.parquet"
            hashes[kind] = write_part(backend, f"{TMP}/{name}", table.schema, [table])
            names[kind] = name
    except BaseException as error:
        for name in names.values():
            backend.remove(f"{TMP}/{name}")
        if isinstance(error, OSError):
            raise machinery_error(backend.location(TMP), error) from error
        raise
    return Attempt(unit, attempt, names, hashes, made, classes, dict(digests or {}))


def _with_write_seconds(timings: pa.Table, seconds: float) -> pa.Table:
    index = timings.schema.get_field_index("write_seconds")
    return timings.set_column(index, timings.schema.field(index), pa.array([seconds] * len(timings)))


def _check_fit(
    attempt: str, data: pa.Table | None, timings: pa.Table, failures: pa.Table, digests: Mapping[str, str]
) -> None:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", attempt):
        raise ValueError(f"attempt {attempt!r} is not made of letters, digits and -")
    made = data["id"].to_pylist() if data is not None else []
    ids = made + failures["id"].to_pylist()
    if not ids:
        raise ValueError("an attempt without any row")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is there twice in one attempt")
    if timings["id"].to_pylist() != made:
        raise ValueError("timings and data have different ids")
    if not digests.keys() <= set(ids):
        raise ValueError(f"digests of ids that are not in the attempt: {sorted(digests.keys() - set(ids))[:3]}")
    if not all(_DIGEST.fullmatch(digest) for digest in digests.values()):
        raise ValueError("a digest that is not 1 to 128 printable characters")


class _HashingFile(io.BufferedWriter):
    """Hashes what is written to it, before anything can happen to it on the way to the disk."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path, "xb"), buffer_size=1 << 20)
        self.digest = hashlib.sha256()

    def write(self, data) -> int:
        self.digest.update(data)
        return super().write(data)


def write_part(backend: StorageBackend, name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> str:
    """Write a new file, durably; nothing is left if anything goes wrong. Returns its SHA-256, hex."""
    with named(backend.location(name)), backend.new_file(name) as path:
        file = _HashingFile(path)
        try:
            with file:
                with pq.ParquetWriter(
                    file,
                    schema,
                    **column_options(schema),
                    write_page_checksum=True,
                ) as writer:
                    for table in tables:
                        writer.write_table(table, row_group_size=ROW_GROUP)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return file.digest.hexdigest()


def column_options(schema: pa.Schema) -> dict[str, Any]:
    """How the columns of a data file are compressed, for `ParquetWriter`: all but the pictures, which are already."""
    every = leaves(schema)
    compressed = [leaf for leaf in every if leaf != "image.bytes"]
    return {
        "compression": {leaf: "ZSTD" if leaf in compressed else "NONE" for leaf in every},
        "use_dictionary": compressed,
        "write_statistics": compressed,
    }


@lru_cache(maxsize=64)
def leaves(schema: pa.Schema) -> tuple[str, ...]:
    """The Parquet paths of a schema's leaf columns. Kept: finding them takes as long as writing a small part."""
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer)
    parquet = pq.ParquetFile(buffer).metadata.schema
    return tuple(parquet.column(i).path for i in range(len(parquet)))


def verify_part(
    backend: StorageBackend, name: str, kind: str, ids: Sequence[str], schema: pa.Schema | None, sha256: str | None
) -> None:
    """Check that a written file is whole: footer, schema, number of rows, ids in order, every byte.

    sha256: of the file as it was written; None leaves out reading it whole, so that only its footer and the
        pages of `id` are checked.
    Raises:
        MachineryError: if it is not. OSError: if the disk or the store does not let it be read.
    """
    try:
        with backend.open(name) as file, pq.ParquetFile(file, page_checksum_verification=True) as part:
            problem = _part_problem(part, kind, ids, schema)
        if problem is None and sha256 is not None and backend.sha256(name) != sha256:
            problem = "other bytes"
    except (OSError, pa.ArrowException) as error:
        if is_of_the_disk(error):
            raise
        problem = first_line(error)
    if problem:
        raise MachineryError(f"{backend.location(name)}: is not what was written ({problem})")


def _part_problem(file: pq.ParquetFile, kind: str, ids: Sequence[str], schema: pa.Schema | None) -> str | None:
    if schema is None or not file.schema_arrow.equals(schema):
        return f"its columns are not those of {kind}"
    if file.metadata.num_rows != len(ids):
        return f"{number_of(file.metadata.num_rows, 'rows')} instead of {len(ids)}"
    if _ids(file) != list(ids):
        return "other ids"
    return None


def _ids(file: pq.ParquetFile) -> list[str]:
    """The `id` column by itself; `ParquetFile.read` takes three times as long to begin."""
    return file.reader.read_column(file.reader.column_name_idx("id")).to_pylist()


def read_schema(backend: StorageBackend, name: str) -> pa.Schema:
    """The Arrow schema of a part. Raises OSError or ArrowException if it is damaged."""
    with backend.open(name) as file:
        return pq.read_schema(file)


def row_groups(backend: StorageBackend, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """A part's rows, a row group at a time. Raises OSError, which names it, or ArrowException if it is damaged."""
    with (
        named(backend.location(name)),
        backend.open(name) as file,
        pq.ParquetFile(file, page_checksum_verification=True) as part,
    ):
        for group in range(part.metadata.num_row_groups):
            yield part.read_row_group(group, columns=columns)


def open_parts(root: str | Path, kind: str, first_unit: int = 0) -> ds.Dataset | None:
    """The published parts of a kind as one dataset, which reads what it is asked for; None if there are none.

    Args:
        root: the output folder, a path or a URL.
        kind: one of `KINDS`.
        first_unit: the lowest number of the units whose parts are taken.
    Raises:
        OSError, ArrowException: It cannot be read, or the first part is damaged.
    """
    backend = open_backend(root)
    names = sorted(name for name in backend.sizes(kind) if is_part(name) and part_of(name)[1] >= first_unit)
    paths = [backend.location(name) for name in names]
    if not paths:
        return None
    if not is_url(backend.root):
        return ds.dataset(paths, format="parquet")
    system = file_system(backend.root)
    keys = [system._strip_protocol(path) for path in paths]
    return ds.dataset(keys, format="parquet", filesystem=PyFileSystem(FSSpecHandler(system)))


def is_part(name: str) -> bool:
    """True for a part's name, relative to the folder."""
    return _PART.fullmatch(name.rpartition("/")[2]) is not None


def expected_schema(kind: str, data: pa.Schema | None) -> pa.Schema | None:
    """The schema of a kind of part. data: the one of data parts, which ends with the passthrough columns."""
    return {"data": data, "timings": TIMING_SCHEMA, "failures": FAILURE_SCHEMA}[kind]


def is_data_schema(schema: pa.Schema) -> bool:
    """True if a schema begins with the columns of `DATA_SCHEMA`."""
    return schema.names[: len(DATA_SCHEMA)] == DATA_SCHEMA.names and all(
        schema.field(field.name).type == field.type for field in DATA_SCHEMA
    )
