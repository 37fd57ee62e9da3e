"""Files that are locked as long as they are open: the system frees them when their process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from wanbatch.manifests.storage import atomic_files

TRIES = 8
"""Of making a folder that others remove again."""


class LockFile:
    """A file that stands for what only some may do at a time. Its operations raise OSError, which names it."""

    def __init__(self, path: Path):
        """Open the file, made if it is missing, as is its folder; it is not locked yet. path: of the file."""
        self._path = path
        self._file = self._opened()

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Lock the file.

        Args:
            shared: along with others that lock it as shared.
            wait: until others have let go of it; else it is given up if they have it.

        Returns:
            Whether it is locked now.
        """
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            try:
                with atomic_files.named(self._path):
                    fcntl.flock(self._file, kind)
            except BlockingIOError:
                return False
            if self._is_of_this_name():
                return True
            os.close(self._file)
            self._file = self._opened()

    def close(self, *, remove: bool = False) -> None:
        """Let go of it.

        Args:
            remove: the file, too, and the folders that were made for it, if nothing else came into them; only for
                who has locked it, not as shared.
        """
        with suppress(OSError):  # what cannot be removed is locked by nobody afterwards
            if remove:
                self._path.unlink()
                for folder in self._made:
                    folder.rmdir()
        os.close(self._file)

    def _opened(self) -> int:
        for _ in range(TRIES):
            self._made = [folder for folder in self._path.parents if not atomic_files.is_there(folder)]
            atomic_files.make_folder(self._path.parent)
            with suppress(FileNotFoundError):  # the folder, too, was removed by who held it before
                return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))

    def _is_of_this_name(self) -> bool:
        """Whether the open file is still the one of its name: who held it before may have removed it."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except FileNotFoundError:
            return False
