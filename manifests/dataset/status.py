"""What an output folder holds, for those who look at it while a run goes on or after it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.commit_log import read_commit_log, read_commits, read_json
from wanbatch.manifests.dataset.committed import Committed, part_of
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.settled_log import read_settled_log
from wanbatch.manifests.storage.backend import open_backend
from wanbatch.manifests.storage.urls import INTERNAL

RUN = f"{INTERNAL}/run.json"


def read_internal_file(path: str | Path, name: str) -> bytes | None:
    """The content of a file that `OutputFolder.append_internal_file` wrote; None if there is none.

    Args:
        path: of the output folder, or its URL.
        name: of the file, inside the folder's `_wanbatch/`.
    Raises:
        MachineryError: if it cannot be read.
    """
    backend = open_backend(path)
    try:
        return backend.read(f"{INTERNAL}/{name}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise machinery_error(str(path), error, reading=True) from error


def counts_of(committed: Committed) -> dict[str, Any]:
    """`done`, `quarantined` and `failures` (error class -> count) of what is committed."""
    return {
        "done": len(committed.made),
        "quarantined": len(committed.failed),
        "failures": dict(sorted(Counter(committed.failed.values()).items())),
    }


def recorded_fingerprint(path: str | Path) -> dict[str, Any] | None:
    """The fingerprint of the run that filled an output folder; None if no run has begun to.

    Args:
        path: of the folder, or its URL; it need not exist.
    Raises:
        UserError: if the record is damaged.
        MachineryError: if it cannot be read.
    """
    backend = open_backend(path)
    try:
        return read_json(backend, RUN)["fingerprint"] if backend.exists(RUN) else None
    except OSError as error:
        raise machinery_error(str(path), error, reading=True) from error


def recorded_plan(path: str | Path) -> dict[str, Any]:
    """What the last run of an output folder noted of its plan: rows, manifest and its digest, settings.

    Args:
        path: of the folder, or its URL; empty if no run has noted one.
    Raises:
        UserError: if the record is damaged.
        MachineryError: if it cannot be read.
    """
    backend = open_backend(path)
    try:
        return read_json(backend, RUN).get("plan", {}) if backend.exists(RUN) else {}
    except OSError as error:
        raise machinery_error(str(path), error, reading=True) from error


def held_ids(path: str | Path) -> tuple[frozenset[str], frozenset[str]] | None:
    """The ids in an output folder, read without its lock: those with an image, and these and the quarantined ones.

    Args:
        path: of the folder, or its URL.
    Returns:
        None if no run has begun to fill it.
    Raises:
        UserError: if a record is damaged.
        MachineryError: if it cannot be read.
    """
    backend = open_backend(path, reading=True)
    try:
        if not backend.exists(RUN):
            return None
        committed = read_commit_log(backend).committed
    except OSError as error:
        raise machinery_error(str(path), error, reading=True) from error
    return frozenset(committed.made), frozenset(committed.where)


@dataclass(frozen=True, slots=True)
class CommittedImages:
    """What an output folder holds, for those who read it as a manifest.

    Attributes:
        parts: its committed data parts, relative to the folder, in their order.
        images: how many images are made.
        quarantined: how many could not be made.
        rows: how many were planned in all.
    """

    parts: tuple[str, ...]
    images: int
    quarantined: int
    rows: int


def committed_rows(path: str) -> CommittedImages | None:
    """What is committed in an output folder, read without its lock; None if a path is none.

    Args:
        path: of the folder, or its URL. What is on the Hub is never one that a run writes to.
    Raises:
        UserError: if a committed part is not there as it was committed, or a record is damaged.
        MachineryError: if it cannot be read.
    """
    backend = open_backend(path, reading=True)
    try:
        if not backend.exists(RUN):
            return None
        log = read_settled_log(backend, ("data",))
        planned = read_json(backend, RUN)["plan"].get("rows")
    except OSError as error:
        raise machinery_error(path, error, reading=True) from error
    made, failed = len(log.committed.made), len(log.committed.failed)
    names = tuple(sorted((name for name in log.parts if part_of(name)[0] == "data"), key=part_of))
    return CommittedImages(names, made, failed, made + failed if planned is None else planned)


def status(path: str | Path) -> dict[str, Any]:
    """What an output folder holds, read without its lock, so also while a run goes on.

    Args:
        path: of the folder, or its URL.
    Returns:
        `done`, `quarantined`, `failures` (error class -> count), `rows` and `pending` (None before the plan
        is recorded), `units` (committed), `holder` (host, pid and since of the run that writes, or None),
        and `fingerprint`, `info`, `plan` as they were recorded.
    Raises:
        UserError: if it is no output folder. MachineryError: if it cannot be reached.
    """
    backend = open_backend(path)
    committed = Committed()
    try:
        if not backend.exists(RUN):
            raise UserError(f"{path}: is not an output folder of wanbatch (it has no {RUN})")
        run = read_json(backend, RUN)
        for record in read_commits(backend):
            committed.add(record)
        holder = backend.holder()
    except OSError as error:
        raise machinery_error(str(path), error, reading=True) from error
    rows = run["plan"].get("rows")
    finished = len(committed.made) + len(committed.failed)
    return {
        "path": str(path),
        "rows": rows,
        **counts_of(committed),
        "pending": None if rows is None else max(0, rows - finished),
        "units": len(committed.units),
        "holder": holder,
        "fingerprint": run["fingerprint"],
        "info": run["info"],
        "plan": run["plan"],
    }
