"""The check of an output folder: all that a run asks of its disk or its store is tried in a folder beside it."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wanbatch.jobs.doctor.check import Finding, Question, fault, ok, readable, warning

if TYPE_CHECKING:
    from wanbatch.manifests.storage.backend import StorageBackend

BESIDE, INSIDE = ".wanbatch-doctor-", "doctor-"  # names of the folder that is tried
LEAST_FREE, GOOD_FREE = 64 << 20, 2 << 30
DATA = b"wanbatch doctor\n" * 64


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """An output folder.

    Attributes:
        out: its absolute path or URL.
        where: the folder in which all was tried: itself, or the first above it that is there; of a store, itself.
        step: what failed; empty: nothing did.
        error: how.
        user_error: whether what the user gave is wrong, instead of the disk or the store.
        holder: who writes to it at the moment; empty: nobody.
        foreign: whether it holds files that are not of a dataset, so that a run refuses it.
        free: bytes that are free; None: a store, which does not tell.
        left: what could not be removed afterwards.
    """

    out: str
    where: str
    step: str = ""
    error: str = ""
    user_error: bool = False
    holder: str = ""
    foreign: bool = False
    free: int | None = None
    left: str = ""


class StepFailed(Exception):
    """A step that failed. Its message names the step; its cause is the error."""


def try_output(question: Question) -> OutputFacts:
    """Try all that a run asks of the output folder."""
    from wanbatch.errors import WanbatchError
    from wanbatch.manifests.storage.backend import open_backend
    from wanbatch.manifests.storage.urls import INTERNAL, absolute, is_url

    assert question.out is not None
    try:
        out = absolute(question.out)
        where = out if is_url(out) else str(_nearest(Path(out)))
        target = open_backend(out)
        holder, foreign = _holder(target), _is_foreign(target)
        # What an interrupted check leaves in a folder is where a run looks for no data.
        inside = f"{INTERNAL}/{INSIDE}" if where == out else BESIDE
        backend = open_backend(f"{where}/{inside}{secrets.token_hex(4)}")
    except (WanbatchError, OSError) as error:
        return OutputFacts(question.out, question.out, "opening it", _words(error), isinstance(error, WanbatchError))
    step, failure = "", None
    try:
        exercise(backend, again=open_backend(backend.root))
    except StepFailed as failed:
        step, failure = str(failed), failed.__cause__
    return OutputFacts(
        out=out,
        where=where,
        step=step,
        error="" if failure is None else _words(failure),
        user_error=isinstance(failure, WanbatchError),
        holder=holder,
        foreign=foreign,
        free=None if is_url(out) else shutil.disk_usage(where).free,
        left=_remove(backend, is_url(out)),
    )


def exercise(backend: StorageBackend, again: StorageBackend) -> None:
    """Do everything that a run does with its folder.

    Args:
        backend: a folder of its own, which need not be there.
        again: the same folder, as another process would open it.

    Raises:
        StepFailed: The first thing that does not work.
    """
    from wanbatch.errors import FolderHeldError

    def locked_twice() -> None:
        with suppress(FolderHeldError):
            again.acquire()
            again.release()
            raise OSError("two processes can lock it at the same time")

    def created_twice() -> None:
        with suppress(FileExistsError):
            backend.write_exclusive("data/a", DATA + b"another")
            raise OSError("a file that is there is overwritten by one that must be new")

    def read_back() -> None:
        if backend.read("data/b") != DATA or set(backend.sizes("data")) != {"data/b", "data/log"}:
            raise OSError("what was written is not what is read or listed")

    steps = {
        "making folders": lambda: backend.make_folders(["data", "_wanbatch"]),
        "locking it": backend.acquire,
        "locking it against others": locked_twice,
        "creating a file": lambda: backend.write_exclusive("data/a", DATA),
        "creating a file that must be new": created_twice,
        "appending to a file": lambda: backend.append("data/log", DATA),
        "renaming a file": lambda: backend.rename_noreplace("data/a", "data/b"),
        "writing a file": lambda: backend.write_atomic("data/c", DATA),
        "replacing a file": lambda: backend.replace("data/c", "data/b"),
        "forcing it to disk": lambda: backend.sync(["data"]),
        "unlocking it": backend.release,  # a store has what was appended only then
        "reading and listing": read_back,
        "removing a file": lambda: backend.remove("data/b"),
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:  # whatever it is, it is what the user wants to know
            raise StepFailed(name) from error


def judge_output(facts: OutputFacts) -> Finding:
    """Say whether a run can fill the folder."""
    if facts.error:
        told = f"{facts.where}: {facts.step} fails: {facts.error}"
        if facts.user_error:
            return fault(facts.error, "give another --out")
        if "://" in facts.out:
            return fault(told, "check the address, its credentials and their rights: read, write, list and delete")
        return fault(told, "mend its permissions, mount or disk, or give another --out")
    if facts.foreign:
        return fault(f"{facts.out} holds files that are not of a dataset", "give a new or an empty folder as --out")
    if facts.left:
        return warning(f"{facts.left} could not be removed", f"remove it: {facts.left}")
    if facts.holder:
        return warning(f"{facts.out}: {facts.holder} writes to it", "wait for it, stop it, or give another --out")
    if facts.free is None:
        return ok(f"{facts.out}: writing, reading, listing, deleting and the lease work")
    if facts.free < LEAST_FREE:
        return fault(f"{facts.where}: {readable(facts.free)} free", "remove files there, or give another --out")
    if facts.free < GOOD_FREE:
        return warning(
            f"{facts.where}: {readable(facts.free)} free, which about {facts.free // (2 << 20)} pictures fill",
            "remove files there, or give another --out",
        )
    return ok(f"{facts.out}: durable writes, renames and the lock work, {readable(facts.free)} free")


def _nearest(path: Path) -> Path:
    """The folder, or the first above it that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(0, "is no folder", str(path))
    return path


def _holder(backend: StorageBackend) -> str:
    found = backend.holder()
    return "" if found is None else f"a run (pid {found['pid']} on {found['host']} since {found['since']})"


def _is_foreign(backend: StorageBackend) -> bool:
    from wanbatch.manifests.dataset.folder import holds_other_files
    from wanbatch.manifests.dataset.status import RUN

    names = backend.top_level_names()
    return names is not None and not backend.exists(RUN) and holds_other_files(backend, names)


def _remove(backend: StorageBackend, is_store: bool) -> str:
    """Remove what was tried; returns what is left."""
    try:
        backend.release()
        if not is_store:
            if os.path.lexists(backend.root):
                shutil.rmtree(backend.root)
            if (parent := os.path.dirname(backend.root)).endswith("_wanbatch"):
                with suppress(OSError):  # others are in it
                    os.rmdir(parent)
            return ""
        for folder in ("data", "_wanbatch", "_wanbatch/lease", ""):
            for name in backend.sizes(folder):
                backend.remove(name)
    except OSError:
        return backend.root
    return ""


def _words(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
