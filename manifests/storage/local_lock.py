"""The lock of a local output folder: one process writes to it, and others can see who."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.holder import describe_this_process, folder_held_error

LOCK = Path("_wanbatch") / "lock"
HOLDER = Path("_wanbatch") / "lock.json"

_log = logging.getLogger(__name__)


class FolderLock:
    """The lock of one folder; the operating system frees it when its process ends, however it ends."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = FileLock(path / LOCK, timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Lock the folder. Raises FolderHeldError, naming who holds it. Nothing is locked after an OSError."""
        try:
            with atomic_files.named(self._path / LOCK):
                self._lock.acquire()
        except Timeout:
            self._ensure_held_by_another()
            holder = None
            with suppress(OSError):  # that it is held is the answer, whoever it is
                holder = self.holder()
            raise folder_held_error(str(self._path), holder) from None
        try:
            atomic_files.write_atomic(self._path / HOLDER, json.dumps(describe_this_process()).encode())
        except BaseException:
            self._lock.release()
            raise

    def _ensure_held_by_another(self) -> None:
        """Raises OSError if nobody holds the lock, whose file could not be opened: `filelock` takes that for held."""
        lock = self._path / LOCK
        with suppress(FileNotFoundError), open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # BlockingIOError: it is; another one: a file system without such locks
                return
        raise OSError(errno.EIO, "could not be opened, and nobody holds it", str(lock))

    def release(self) -> None:
        """Unlock the folder; nothing happens if it is unlocked already."""
        if not self._lock.is_locked:
            return
        try:
            atomic_files.remove(self._path / HOLDER)
        except OSError as error:
            _log.warning("%s: could not be removed (%s); the folder is unlocked", self._path / HOLDER, error.strerror)
        finally:
            self._lock.release()

    def holder(self) -> Mapping[str, Any] | None:
        """Who says to hold the folder; None if nobody does, or a process of this host that is gone.

        Raises OSError if that cannot be read.
        """
        try:
            with atomic_files.named(self._path / HOLDER):
                found = json.loads((self._path / HOLDER).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(found, dict) or not found.keys() >= {"host", "pid", "since"}:
            return None
        return None if found["host"] == socket.gethostname() and _is_gone(found["pid"]) else found


def _is_gone(pid: Any) -> bool:
    """Whether no process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False  # alive, of another user
    except (OSError, OverflowError, TypeError):
        return True
    return False
