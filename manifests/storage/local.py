"""An output folder on a local disk; see `backend.StorageBackend` for what its operations promise."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.local_lock import FolderLock


class LocalBackend:
    """A folder of this machine's file system."""

    max_concurrency = min(8, os.cpu_count() or 1)
    verifies_checksums = True

    def __init__(self, path: str | Path):
        self.root = os.path.abspath(path)
        self._lock = FolderLock(Path(self.root))

    def location(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root

    def read(self, name: str) -> bytes:
        with open(self.location(name), "rb") as file:
            return file.read()

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def sizes(self, folder: str) -> dict[str, int]:
        if not os.path.isdir(self.location(folder)):
            return {}
        with os.scandir(self.location(folder)) as entries:
            return {f"{folder}/{e.name}".lstrip("/"): e.stat().st_size for e in entries if not e.is_dir()}

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.location(name))

    def write_exclusive(self, name: str, data: bytes) -> None:
        atomic_files.write_exclusive(Path(self.location(name)), data)

    def write_atomic(self, name: str, data: bytes) -> None:
        atomic_files.write_atomic(Path(self.location(name)), data)

    def append(self, name: str, data: bytes) -> None:
        with open(self.location(name), "ab") as file:
            file.write(data)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        yield Path(self.location(name))

    def open(self, name: str) -> Any:
        return pa.OSFile(self.location(name))

    def size(self, name: str) -> int:
        return os.stat(self.location(name)).st_size

    def sha256(self, name: str) -> str:
        with open(self.location(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

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
        if not os.path.lexists(self.root):
            return set()
        return set(os.listdir(self.root)) if os.path.isdir(self.root) else None

    def make_folders(self, folders: Iterable[str]) -> None:
        for folder in folders:
            os.makedirs(self.location(folder), exist_ok=True)

    def acquire(self) -> None:
        self._lock.acquire()

    def ensure_writer(self) -> None:
        """The operating system keeps the lock until this process ends."""

    def release(self) -> None:
        self._lock.release()

    def holder(self) -> Mapping[str, Any] | None:
        return self._lock.holder()
