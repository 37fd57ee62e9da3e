"""`checks/`: what was found of each picture, one part beside each part of `data/`. Pictures are not written again."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.commit_log import to_json
from wanbatch.manifests.dataset.committed import part_of
from wanbatch.manifests.dataset.part_files import is_part
from wanbatch.manifests.storage.backend import StorageBackend
from wanbatch.manifests.storage.urls import INTERNAL

FOLDER = "checks"
REJECTED_BY = "rejected_by"
"""The column with the names of the checks that reject a picture."""
NOTE = f"{INTERNAL}/checks.json"


def checks_name(data_part: str) -> str:
    """Where the checks of a part's pictures are. data_part: like `data/part-00000.parquet`."""
    return f"{FOLDER}/part-{part_of(data_part)[1]:05d}.parquet"


def write_checks(
    backend: StorageBackend, tables: Iterable[tuple[str, pa.Table]], note: Callable[[], Mapping[str, Any]]
) -> None:
    """Write the checks of a folder, each part whole or not at all, and remove those whose pictures are gone.

    Args:
        backend: of the folder, which this process holds.
        tables: the name of each part of `data/`, in their order, with what was found of its pictures.
        note: what is noted of the checks as a whole, as JSON has it; called once all parts are written.
    Raises:
        OSError: the disk or the store refuses.
    """
    backend.make_folders([FOLDER])
    digest = hashlib.sha256()
    kept = set()
    for part, table in tables:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, write_page_checksum=True)
        data = buffer.getvalue()
        digest.update(data)
        backend.ensure_writer()
        backend.write_atomic(checks_name(part), data)
        kept.add(checks_name(part))
    for name in backend.sizes(FOLDER):
        if is_part(name) and name not in kept:
            backend.ensure_writer()
            backend.remove(name)
    backend.ensure_writer()
    backend.write_atomic(NOTE, to_json({"digest": digest.hexdigest(), **note()}, indent=1))


def checks_tables(backend: StorageBackend, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read what was found of a folder's pictures, part by part; nothing if nothing was checked.

    Args:
        backend: of the folder.
        columns: of these those that a part has; None: all.
    Raises:
        OSError, ArrowException: a part cannot be read, or is damaged.
    """
    for name in sorted(name for name in backend.sizes(FOLDER) if name.endswith(".parquet")):
        with backend.open(name) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            there = parquet.schema_arrow.names
            table = parquet.read(None if columns is None else [column for column in columns if column in there])
            table.validate(full=True)  # parts of earlier versions have no checksums
            yield table


def checks_note(backend: StorageBackend) -> dict[str, Any] | None:
    """What was noted of the checks of a folder, with the `digest` of what they found; None if it has none.

    Raises:
        UserError: it is damaged. OSError: it cannot be read.
    """
    try:
        note = json.loads(backend.read(NOTE))
        note["digest"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{backend.location(NOTE)}: cannot be read ({error}): "
            f"`wanbatch check {shlex.quote(backend.root)}` writes it again"
        ) from error
    return note
