"""`wanbatch repair`: every committed part is checked; what is lost or damaged leaves the dataset, to be made again.

A unit's images and timings stand and fall together: a part of timings cannot be written again, as nobody remembers
what was measured, so its images are made again with it. Damaged files are kept, in `_wanbatch/orphans/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.card import refresh_card
from wanbatch.manifests.dataset.commit_log import (
    COMMITS,
    CommitLog,
    DamagedError,
    Part,
    parse_commit,
    published_parts,
    read_commit_files,
    read_commit_log,
    repair_command,
    withdrawal_record,
    write_commit,
)
from wanbatch.manifests.dataset.committed import part_name, part_of
from wanbatch.manifests.dataset.disk_errors import disk_message, machinery_error
from wanbatch.manifests.dataset.event_log import LOG, log_line
from wanbatch.manifests.dataset.held_folder import held_folder
from wanbatch.manifests.dataset.part_files import KINDS, TMP
from wanbatch.manifests.dataset.recovery import finish_replacements, keep_copy, set_aside
from wanbatch.manifests.dataset.status import INTERNAL, RUN
from wanbatch.manifests.storage.backend import StorageBackend, open_backend


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` found and did. Names of files are relative to the folder.

    Attributes:
        folder: its path or URL.
        parts: how many committed parts were checked.
        lost: parts that are gone.
        damaged: parts with another size or other bytes than were committed.
        with_them: whole parts of the same units that had to leave the dataset too.
        commits: commit files that were damaged.
        uncommitted: parts that no commit names.
        ids: the rows that the next run makes again.
        orphans: where each file was moved to, by its name before.
    """

    folder: str
    parts: int
    lost: tuple[str, ...]
    damaged: tuple[str, ...]
    with_them: tuple[str, ...]
    commits: tuple[str, ...]
    uncommitted: tuple[str, ...]
    ids: tuple[str, ...]
    orphans: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Whether there was nothing to repair."""
        return not (self.lost or self.damaged or self.commits or self.uncommitted)


def repair(path: str | Path) -> RepairReport:
    """Check every part of an output folder by size and SHA-256, and take out of it what is lost or damaged.

    What leaves the dataset does so at once, by one commit record. The next run of the folder's command makes those
    rows again, and no others. A folder without damage is left as it is.

    Args:
        path: of the folder, or its URL.
    Raises:
        UserError: if it is no output folder.
        FolderHeldError: if a run writes to it.
        MachineryError: if the disk or the store refuses. A part that cannot be read may be whole, so nothing is
            decided then.
    """
    backend = open_backend(path)
    with _held(backend):
        commits = _mend_commit_files(backend)
        log = read_commit_log(backend)
        finish_replacements(backend, log, backend.sizes(TMP))
        states = _states(backend, log, published_parts(backend))
        bad = sorted(name for name, state in states.items() if state != "whole")
        leaving = _whole_units(bad, log)
        ids = tuple(log.committed.ids_in(leaving))
        uncommitted = sorted(published_parts(backend).keys() - log.parts.keys())
        _require_same_commits(backend, log)
        if leaving:
            backend.ensure_writer()
            write_commit(backend, [withdrawal_record(log.committed, leaving)])
        there = published_parts(backend).keys()
        orphans = dict(commits)
        orphans |= set_aside(backend, leaving & there, "they or parts of the same unit are damaged or lost")
        orphans |= set_aside(backend, uncommitted, "no commit names them")
        if leaving or commits or uncommitted:
            refresh_card(backend, read_commit_log(backend).committed)
        report = RepairReport(
            folder=backend.root,
            parts=len(log.parts),
            lost=tuple(name for name in bad if states[name] == "lost"),
            damaged=tuple(name for name in bad if states[name] == "damaged"),
            with_them=tuple(sorted(leaving - set(bad))),
            commits=tuple(commits),
            uncommitted=tuple(uncommitted),
            ids=ids,
            orphans=orphans,
        )
        if not report.whole:
            noted = {"lost": report.lost, "damaged": report.damaged, "commits": report.commits}
            backend.append(f"{INTERNAL}/{LOG}", log_line("repaired", rows=len(ids), **noted))
        return report


@contextmanager
def _held(backend: StorageBackend) -> Iterator[None]:
    """While this lasts, this process is the folder's writer; errors of the disk become MachineryError."""
    try:
        if not backend.exists(RUN):
            raise UserError(f"{backend.root}: is not an output folder of wanbatch (it has no {RUN})")
        backend.make_folders((*KINDS, COMMITS, TMP))
    except OSError as error:
        raise machinery_error(backend.root, error) from error
    with held_folder(backend):
        yield


def _require_same_commits(backend: StorageBackend, log: CommitLog) -> None:
    """Raises MachineryError if a second look finds other commits: what no commit names is about to be moved."""
    if (now := read_commit_log(backend).records) != log.records:
        raise MachineryError(
            f"{backend.location(COMMITS)}: {log.records} commits were found at first and {now} just after: nothing "
            f"was changed; mend the disk or the mount, and run `{repair_command(backend)}` again"
        )


def _mend_commit_files(backend: StorageBackend) -> dict[str, str]:
    """Leave only whole records in the commit files; damaged files are kept in `_wanbatch/orphans/`.

    Returns:
        Name of each damaged file -> where it is kept.
    Raises:
        UserError: if a record is of a format that is not known; nothing is changed then.
    """
    kept: dict[str, str] = {}
    files = [(name, data, _whole_records(backend, name, data)) for name, data in read_commit_files(backend)]
    for name, data, good in files:
        if good and len(good) == len(data.splitlines()):
            continue
        kept[name] = keep_copy(backend, name, data)
        backend.ensure_writer()
        if good:
            backend.write_atomic(name, b"\n".join(good))
        else:
            backend.remove(name)
            backend.sync((COMMITS,))
    return kept


def _whole_records(backend: StorageBackend, name: str, data: bytes) -> list[bytes]:
    """The lines of a commit file that are not damaged. Raises UserError if one is of a format that is not known."""
    good = []
    for line in data.splitlines():
        with suppress(DamagedError):
            parse_commit(backend, name, line)
            good.append(line)
    return good


def _states(backend: StorageBackend, log: CommitLog, found: Mapping[str, int]) -> dict[str, str]:
    """Name of each committed part -> `whole`, `lost` or `damaged`."""

    def state(item: tuple[str, Part]) -> str:
        name, part = item
        backend.ensure_writer()
        try:
            if name not in found and not backend.exists(name):
                return "lost"
            if backend.size(name) != part.bytes:
                return "damaged"
            return "whole" if part.sha256 in (None, backend.sha256(name)) else "damaged"
        except OSError as error:
            raise MachineryError(
                f"{disk_message(backend.location(name), error, reading=True)}: it may be whole, so nothing was "
                "decided. Mend the disk or the mount; or, if the file is lost for good, remove it and run "
                f"`{repair_command(backend)}` again"
            ) from error

    with ThreadPoolExecutor(backend.max_concurrency) as pool:
        return dict(zip(log.parts, pool.map(state, log.parts.items()), strict=True))


def _whole_units(bad: list[str], log: CommitLog) -> set[str]:
    """The parts that leave the dataset with the bad ones: images and timings of a unit go together."""
    leaving = set(bad)
    for name in bad:
        kind, unit = part_of(name)
        if kind != "failures":
            leaving |= {part_name(one, unit) for one in ("data", "timings")}
    return leaving & log.parts.keys()
