"""Parts that are written again: without ids that are decided anew or removed, or with the columns that came since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.commit_log import Replacement, repair_command
from wanbatch.manifests.dataset.committed import Committed, part_name
from wanbatch.manifests.dataset.disk_errors import first_line, is_of_the_disk
from wanbatch.manifests.dataset.part_files import TMP, row_groups, write_part
from wanbatch.manifests.dataset.schema_changes import ColumnsDifferError, cast
from wanbatch.manifests.storage.atomic_files import named
from wanbatch.manifests.storage.backend import StorageBackend

Reading = Callable[[StorageBackend, str], AbstractContextManager[None]]
"""What is around the reading of a part, whose name it is given: turns damage to it into an error of ours."""

Told = Callable[[int, int], None]
"""Is told how many parts are written so far, of how many."""
AT_ONCE = 4
"""Parts that are written at the same time at most: each has a row group of pictures in memory."""


def told_nobody(written: int, parts: int) -> None:
    """In place of who is told how far it is."""


def parts_holding(done: Committed, ids: Iterable[str]) -> dict[str, set[str]]:
    """Name of each committed part that holds some of these ids -> those that it holds."""
    parts: dict[str, set[str]] = {}
    for name in ids:
        if name in done.where:
            kinds = ("failures",) if name in done.failed else ("data", "timings")
            for kind in kinds:
                parts.setdefault(part_name(kind, done.where[name]), set()).add(name)
    return parts


@contextmanager
def damage_is_of_the_machinery(backend: StorageBackend, name: str) -> Iterator[None]:
    """Damage to a part becomes a MachineryError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if is_of_the_disk(error):
            raise
        raise MachineryError(f"{backend.location(name)}: cannot be read ({first_line(error)})") from error


@contextmanager
def damage_is_to_be_repaired(backend: StorageBackend, name: str) -> Iterator[None]:
    """Damage to a part becomes a UserError that says what to do."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        if is_of_the_disk(error):
            raise
        raise UserError(
            f"{backend.location(name)}: cannot be read ({first_line(error)}): run `{repair_command(backend)}` and "
            "then the command of its run again, which makes the rows again that it held"
        ) from error


def write_replacements(
    backend: StorageBackend,
    by: str,
    parts: Mapping[str, set[str]],
    reading: Reading = damage_is_of_the_machinery,
    told: Told = told_nobody,
) -> list[Replacement]:
    """Write to `_wanbatch/tmp/` what is left of each part, durably. Changes nothing that readers see.

    Args:
        backend: the folder.
        by: what replaces the parts, as names of files have it; no other has it while these files are there.
        parts: name of each part -> ids that it holds and that it is written without.
        reading: says what damage to a part is.
        told: of each part that is written.
    Raises:
        MachineryError: if a part does not hold the ids, or, as `reading` has it, is damaged.
        OSError: if the disk refuses. Nothing is left behind then.
    """

    def rewritten(number: int, name: str, ids: set[str]) -> Replacement:
        with reading(backend, name):
            return _rewritten(backend, name, ids, f"{TMP}/{by}-replaced-{number}.parquet")

    numbered = enumerate(sorted(parts.items()))
    return _write_several(backend, [partial(rewritten, number, *part) for number, part in numbered], told)


def write_with_columns(
    backend: StorageBackend, unit: int, names: Sequence[str], schema: pa.Schema, told: Told = told_nobody
) -> list[Replacement]:
    """Write to `_wanbatch/tmp/` data parts with the columns of another schema, durably.

    Args:
        backend: the folder.
        unit: the number of the commit record that will name the files.
        names: of the parts.
        schema: `schema_changes.common_schema` of theirs and another.
        told: of each part that is written.
    Raises:
        UserError: if a part is damaged.
        OSError: if the disk or the store refuses. Nothing is left behind then.
    """

    def rewritten(number: int, name: str) -> Replacement:
        temporary = f"{TMP}/{unit:05d}-columns-replaced-{number}.parquet"
        with damage_is_to_be_repaired(backend, name):
            tables = (cast(group, schema) for group in row_groups(backend, name))
            sha256 = write_part(backend, temporary, schema, tables)
        return Replacement(name, temporary, backend.size(temporary), sha256)

    return _write_several(backend, [partial(rewritten, *part) for part in enumerate(names)], told)


def _write_several(
    backend: StorageBackend, writers: Sequence[Callable[[], Replacement]], told: Told
) -> list[Replacement]:
    """Write replacements, several at a time. After an error those that are written are removed again.

    Args:
        backend: the folder.
        writers: each writes one.
        told: of each that is written.
    """
    pool = ThreadPoolExecutor(max(1, min(len(writers), backend.max_concurrency, AT_ONCE)), "rewrite")
    futures = [pool.submit(writer) for writer in writers]
    try:
        for count, future in enumerate(as_completed(futures), 1):
            future.result()
            told(count, len(futures))
        return [future.result() for future in futures]
    except BaseException:
        pool.shutdown(cancel_futures=True)  # waits for those that have begun
        done = [future for future in futures if not future.cancelled() and future.exception() is None]
        remove_replacements(backend, [future.result() for future in done])
        raise
    finally:
        pool.shutdown()


def require_castable(backend: StorageBackend, name: str, columns: Sequence[str], schema: pa.Schema) -> None:
    """Raises ColumnsDifferError unless these columns of a part can be cast to a schema without loss."""
    with damage_is_to_be_repaired(backend, name):
        for group in row_groups(backend, name, columns):
            for column in columns:
                try:
                    cast(group.select([column]), pa.schema([schema.field(column)]))
                except pa.ArrowException as error:
                    kinds = f"{group.schema.field(column).type}, now {schema.field(column).type}"
                    raise ColumnsDifferError(
                        f"{column} was {kinds}, which not all values have room in ({error})"
                    ) from error


def install_replacements(backend: StorageBackend, replaced: Sequence[Replacement]) -> None:
    """Put the replacements where readers find them, durably. Their commit record exists already."""

    def install(new: Replacement) -> None:
        if new.temporary is None:
            backend.remove(new.name)
        else:
            backend.replace(new.temporary, new.name)

    with ThreadPoolExecutor(backend.max_concurrency, "install") as pool:
        list(pool.map(install, replaced))
    backend.sync({new.name.partition("/")[0] for new in replaced})


def remove_replacements(backend: StorageBackend, replaced: Iterable[Replacement]) -> None:
    """Remove replacements that were not committed."""
    for new in replaced:
        if new.temporary is not None:
            backend.remove(new.temporary)


def _rewritten(backend: StorageBackend, name: str, ids: set[str], temporary: str) -> Replacement:
    with backend.open(name) as file, pq.ParquetFile(file, page_checksum_verification=True) as part:
        found = part.read(columns=["id"])["id"].to_pylist()
        if not ids <= set(found):
            raise MachineryError(f"{backend.location(name)}: lacks ids that were committed with it")
        if len(found) == len(ids):
            return Replacement(name, None, None, None)
        sha256 = write_part(backend, temporary, part.schema_arrow, _without(part, backend.location(name), ids))
    return Replacement(name, temporary, backend.size(temporary), sha256)


def _without(part: pq.ParquetFile, location: str, ids: set[str]) -> Iterator[pa.Table]:
    """The rows of a part but those with some ids, a row group at a time. Raises OSError, which names the part."""
    gone = pa.array(sorted(ids), pa.string())
    for number in range(part.metadata.num_row_groups):
        with named(location):
            group = part.read_row_group(number)
        left = group.filter(pc.invert(pc.is_in(group["id"], gone)))
        if len(left):
            yield left
