"""Opening a folder that a run left: what is committed is finished, what is not is set aside, nothing is destroyed.

A file where readers look for parts is never removed: what no commit names is moved to `_wanbatch/orphans/`, under a
name that nothing has there yet. Only files of attempts, which no reader sees, are removed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.manifests.dataset.commit_log import (
    COMMITS,
    FIRST_GROUP,
    CommitLog,
    ensure_parts_intact,
    published_parts,
    read_commit_log,
    read_json,
    repair_command,
)
from wanbatch.manifests.dataset.committed import part_name
from wanbatch.manifests.dataset.event_log import LOG, log_line
from wanbatch.manifests.dataset.part_files import KINDS, TMP
from wanbatch.manifests.dataset.status import INTERNAL
from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.backend import StorageBackend

ORPHANS = f"{INTERNAL}/orphans"
"""Where files go that are taken out of the dataset, or never were part of it."""

_log = logging.getLogger(__name__)


def recover(backend: StorageBackend) -> CommitLog:
    """Read the commits, finish what a killed run had committed, set aside what it had not.

    Returns:
        What is committed. All its parts are there, with the sizes that they should have.
    Raises:
        UserError: if a commit record is damaged, a committed part is gone or has another size, or there are parts
            and no commits. The files that readers see are as they were then, but for committed replacements.
        OSError: if the disk or the store refuses.
    """
    log = read_commit_log(backend)
    temporary = backend.sizes(TMP)
    internal = backend.sizes(INTERNAL)
    require_commits(backend, log, FIRST_GROUP in internal)
    finish_replacements(backend, log, temporary)
    found = published_parts(backend)
    ensure_parts_intact(backend, log.parts, found)
    set_aside(backend, found.keys() - log.parts.keys(), "no commit names them")
    leftovers = set(temporary)
    for names in (backend.sizes(""), internal, backend.sizes(COMMITS)):
        leftovers |= {name for name in names if name.rpartition("/")[2].startswith(atomic_files.TMP_PREFIX)}
    if FIRST_GROUP in internal:
        leftovers.add(FIRST_GROUP)
    for name in sorted(leftovers):
        backend.ensure_writer()
        backend.remove(name)
    return log


def finish_replacements(backend: StorageBackend, log: CommitLog, temporary: Mapping[str, int]) -> None:
    """Give committed replacements the names of their parts; a temporary file that is gone has its name already.

    Args:
        backend: the folder, of which this process is the writer.
        log: what is committed.
        temporary: the files in `_wanbatch/tmp/`.
    """
    ready = {name: part.temporary for name, part in log.parts.items() if part.temporary in temporary}
    for name, waiting in ready.items():
        assert waiting is not None
        backend.ensure_writer()
        backend.replace(waiting, name)
    for name in log.dropped:
        backend.ensure_writer()
        backend.remove(name)
    backend.sync({name.partition("/")[0] for name in (*ready, *log.dropped)})


def set_aside(backend: StorageBackend, names: Collection[str], why: str) -> dict[str, str]:
    """Move files to `_wanbatch/orphans/`, durably, and say so in the log and in a warning.

    Args:
        backend: the folder, of which this process is the writer.
        names: of the files, relative to the folder.
        why: the reason, as a clause.
    Returns:
        Old name -> the name in `_wanbatch/orphans/`.
    """
    if not names:
        return {}
    backend.make_folders((ORPHANS,))
    moved = {}
    for name in sorted(names):
        backend.ensure_writer()
        moved[name] = _move(backend, name)
    backend.sync(sorted({name.rpartition("/")[0] for name in names} | {ORPHANS}))
    backend.append(f"{INTERNAL}/{LOG}", log_line("set_aside", why=why, files=moved))
    _log.warning(
        "%s: moved to %s, since %s: %s", backend.root, ORPHANS, why, ", ".join(sorted(moved)), extra={"files": moved}
    )
    return moved


def keep_copy(backend: StorageBackend, name: str, data: bytes) -> str:
    """Write the content of a file that will be changed to `_wanbatch/orphans/`, durably. Returns the copy's name."""
    backend.make_folders((ORPHANS,))
    backend.ensure_writer()
    return _under_free_name(name, lambda target: backend.write_exclusive(target, data))


def _move(backend: StorageBackend, name: str) -> str:
    return _under_free_name(name, lambda target: backend.rename_noreplace(name, target))


def _under_free_name(name: str, create: Callable[[str], object]) -> str:
    """Call `create` with one name in `_wanbatch/orphans/` after another until it raises no FileExistsError."""
    folder, _, file = name.rpartition("/")
    stem, dot, ending = f"{folder.rpartition('/')[2]}-{file}".rpartition(".")
    for number in itertools.count(1):
        target = f"{ORPHANS}/{stem}{f'.{number}' if number > 1 else ''}{dot}{ending}"
        with suppress(FileExistsError):
            create(target)
            break
    return target


def require_commits(backend: StorageBackend, log: CommitLog, first_group_begun: bool) -> None:
    """Raises UserError if there are parts and no commits, unless the first group was being published."""
    if log.records:
        return
    units = read_json(backend, FIRST_GROUP)["units"] if first_group_begun else ()
    expected = {part_name(kind, unit) for kind in KINDS for unit in units}
    if unknown := sorted(published_parts(backend).keys() - expected):
        raise UserError(
            f"{backend.root}: holds {number_of(len(unknown), 'parts')} ({unknown[0]}, for one), "
            f"and no commits in {COMMITS}: restore that folder; "
            f"or run `{repair_command(backend)}`, which moves the parts to {ORPHANS}, so that "
            "their rows are made again"
        )
