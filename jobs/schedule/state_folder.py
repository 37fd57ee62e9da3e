"""The state folder of schedules: its ledger, and the locks by which commands share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanbatch.errors import FolderHeldError, MachineryError
from wanbatch.jobs.schedule.ledger import Ledger
from wanbatch.manifests.storage.lock_file import LockFile

LOCK = "lock"
TURN = "turn.lock"


@contextmanager
def state_lock(state: Path, *, shared: bool) -> Iterator[None]:
    """Keep other services away from a state folder; several commands that run one tick each may share it.

    Raises:
        FolderHeldError: It is in use.
        MachineryError: It cannot be locked.
    """
    lock = _LockFile(state / LOCK)
    try:
        if not lock.take(shared=shared):
            raise FolderHeldError(
                f"{state}: another `wanbatch schedule run` or `schedule tick` uses this folder: stop it, or choose "
                "another folder with --state"
            )
        yield
    finally:
        lock.close()


class Turn:
    """The turn to look after the open ticks of one schedule, which one command at a time has.

    Several commands that run one tick each may share a state folder. One of them settles, expires and starts ticks of
    a schedule; when it ends, or is killed, its turn is free for the next one that asks.
    """

    def __init__(self, state: Path, name: str):
        """state: the folder of the ledger. name: of the schedule. Raises MachineryError if it cannot be used."""
        self._lock = _LockFile(state / name / TURN)
        self.is_mine = False

    def take(self) -> bool:
        """Whether it is this command's turn, from now on if nobody else has it. Raises MachineryError."""
        self.is_mine = self.is_mine or self._lock.take()
        return self.is_mine

    def close(self) -> None:
        """Give it up."""
        self._lock.close()
        self.is_mine = False


class _LockFile:
    """A file that is locked as long as it is open, with errors as messages."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._lock = LockFile(path)
        except OSError as error:
            raise MachineryError(
                f"{path}: cannot be used ({error.strerror}): choose another folder with --state"
            ) from error

    def take(self, *, shared: bool = False) -> bool:
        """Lock it, unless others have; whether that was so."""
        try:
            return self._lock.take(shared=shared)
        except OSError as error:
            raise MachineryError(
                f"{self._path}: cannot be locked ({error.strerror}): choose a folder on a local disk with --state"
            ) from error

    def close(self) -> None:
        self._lock.close()


@contextmanager
def opened_ledger(state: Path, *, read_only: bool = False) -> Iterator[Ledger]:
    """The ledger of a state folder. Raises as `Ledger`."""
    ledger = Ledger(state, read_only=read_only)
    try:
        yield ledger
    finally:
        ledger.close()
