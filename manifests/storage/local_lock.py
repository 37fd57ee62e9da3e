"""The lock of a local output folder: one process writes to it, and others can see who."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.holder import describe_this_process, folder_held_error

LOCK = Path("_wanbatch") / "lock"
HOLDER = Path("_wanbatch") / "lock.json"


class FolderLock:
    """The lock of one folder; the operating system frees it when its process ends, however it ends."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = FileLock(path / LOCK, timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Lock the folder. Raises FolderHeldError, naming who holds it."""
        try:
            self._lock.acquire()
        except Timeout:
            raise folder_held_error(str(self._path), self.holder()) from None
        atomic_files.write_atomic(self._path / HOLDER, json.dumps(describe_this_process()).encode())

    def release(self) -> None:
        """Unlock the folder; nothing happens if it is unlocked already."""
        if self._lock.is_locked:
            atomic_files.remove(self._path / HOLDER)
            self._lock.release()

    def holder(self) -> Mapping[str, Any] | None:
        """Who says to hold the folder; None if nobody does, or a process of this host that is gone."""
        try:
            found = json.loads((self._path / HOLDER).read_bytes())
            if found["host"] == socket.gethostname():
                os.kill(found["pid"], 0)
        except PermissionError:
            return found  # alive, of another user
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found
