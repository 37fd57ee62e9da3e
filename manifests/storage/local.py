"""An output folder on a local disk; see `backend.StorageBackend` for what its operations promise."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from wanbatch.machine import usable_cores
from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.local_lock import FolderLock

LISTINGS = 3
"""How often a folder is listed whose files vanish between the listing and the look at them."""


class LocalBackend:
    """A folder of this machine's file system."""

    max_concurrency = min(8, usable_cores())
    verifies_checksums = True

    def __init__(self, path: str | Path):
        self.root = os.path.abspath(path)
        self._lock = FolderLock(Path(self.root))

    def location(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root

    def read(self, name: str) -> bytes:
        with self._opened(name) as file:
            return file.read()

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def sizes(self, folder: str) -> dict[str, int]:
        path = self.location(folder)
        for _ in range(LISTINGS):
            try:
                entries = os.scandir(path)
            except FileNotFoundError:
                return {}
            with atomic_files.named(path), entries:
                listed = list(entries)
            try:
                return {f"{folder}/{entry.name}".lstrip("/"): size for entry in listed if (size := _size(entry)) >= 0}
            except FileNotFoundError as error:
                vanished = error.filename
        raise OSError(errno.EIO, "is listed in its folder and cannot be found there", vanished)

    def exists(self, name: str) -> bool:
        return atomic_files.is_there(self.location(name))

    def write_exclusive(self, name: str, data: bytes) -> None:
        atomic_files.write_exclusive(Path(self.location(name)), data)

    def write_atomic(self, name: str, data: bytes) -> None:
        atomic_files.write_atomic(Path(self.location(name)), data)

    def append(self, name: str, data: bytes) -> None:
        with atomic_files.named(self.location(name)), open(self.location(name), "ab") as file:
            file.write(data)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        yield Path(self.location(name))

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        path = self.location(name)
        with atomic_files.named(path), pa.OSFile(path) as file:
            yield file

    def size(self, name: str) -> int:
        return os.stat(self.location(name)).st_size

    def sha256(self, name: str) -> str:
        with self._opened(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def rename_noreplace(self, source: str, target: str) -> int:
        atomic_files.rename_noreplace(Path(self.location(source)), Path(self.location(target)))
        return self.size(target)

    def replace(self, source: str, target: str) -> None:
        os.replace(self.location(source), self.location(target))

    def remove(self, name: str) -> None:
        atomic_files.remove(Path(self.location(name)))

    def sync(self, folders: Iterable[str]) -> None:
        for folder in folders:
            atomic_files.sync_folder(Path(self.location(folder)))

    def top_level_names(self) -> set[str] | None:
        try:
            return set(os.listdir(self.root))
        except FileNotFoundError:
            return set()
        except NotADirectoryError:
            return None

    def make_folders(self, folders: Iterable[str]) -> None:
        for folder in folders:
            atomic_files.make_folder(Path(self.location(folder)))

    def acquire(self) -> None:
        self._lock.acquire()

    def ensure_writer(self) -> None:
        """The operating system keeps the lock until this process ends."""

    def release(self) -> None:
        self._lock.release()

    def holder(self) -> Mapping[str, Any] | None:
        return self._lock.holder()

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        path = self.location(name)
        with atomic_files.named(path), open(path, "rb") as file:
            yield file


def _size(entry: os.DirEntry[str]) -> int:
    """The bytes of a listed file; -1 for a folder, or a link that leads nowhere. Raises OSError."""
    try:
        return -1 if entry.is_dir() else entry.stat().st_size
    except FileNotFoundError:
        if entry.is_symlink():
            return -1
        raise
