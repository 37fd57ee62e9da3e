"""Where an output folder is: on a disk here, or in an object store (`stores.py`).

The rules of publishing, committing and recovering are written once, over these few operations. Names are
relative to the folder, with `/`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.urls import is_url, local_path


class StorageBackend(Protocol):
    """A folder. Operations raise OSError (FileNotFoundError, FileExistsError) and nothing else.

    root: what it is called by, and found again with `backend_for`. at_once: operations worth doing at a time.
    check_bytes: whether reading a part whole, to compare it with what was written, is cheap.
    """

    root: str
    at_once: int
    check_bytes: bool

    def shown(self, name: str) -> str:
        """What messages call a file."""
        ...

    def read(self, name: str) -> bytes: ...

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """Many files, in their order."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """The files directly in a folder, name -> bytes; none if there is no such folder."""
        ...

    def exists(self, name: str) -> bool: ...

    def write_exclusive(self, name: str, data: bytes) -> None:
        """Create a file with its content at once, durably. Raises FileExistsError, also in a race."""
        ...

    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace a file durably; readers see the old content or the new one."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file. What was added last may be lost if this process dies."""
        ...

    def new_file(self, name: str) -> Any:
        """A context manager: a local path to create and sync; the file has its name when it ends well."""
        ...

    def open(self, name: str) -> Any:
        """A file that pyarrow reads in any order; a context manager."""
        ...

    def size(self, name: str) -> int: ...

    def sha256(self, name: str) -> str: ...

    def rename_noreplace(self, source: str, target: str) -> int:
        """Rename without overwriting; durable after `sync`. Returns the size. Raises FileExistsError."""
        ...

    def replace(self, source: str, target: str) -> None:
        """Replace `target` by `source` at once; durable after `sync`. May be repeated if it was interrupted."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def sync(self, folders: Iterable[str]) -> None:
        """Make what was moved in these folders durable."""
        ...

    def entries(self) -> set[str] | None:
        """The names directly in the folder; None if there is something else in its place."""
        ...

    def make_folders(self, folders: Iterable[str]) -> None: ...

    def acquire(self) -> None:
        """Become the only writer. Raises FolderHeldError, naming the other one."""
        ...

    def require_held(self) -> None:
        """Raises OSError if another one may have become the writer meanwhile."""
        ...

    def release(self) -> None: ...

    def holder(self) -> Mapping[str, Any] | None:
        """host, pid and since of the writer; None if there is none, or it is known to be gone."""
        ...


def backend_for(root: str | Path) -> StorageBackend:
    """The place of an output folder. Raises UserError for an URL that cannot hold one."""
    if is_url(root):
        from wanbatch.manifests.storage.object_store import ObjectStoreBackend

        return ObjectStoreBackend(str(root))
    return LocalBackend(local_path(root))


class LocalBackend:
    """A folder of this machine's file system."""

    at_once = min(8, os.cpu_count() or 1)
    check_bytes = True

    def __init__(self, path: str | Path):
        from wanbatch.manifests.storage.local_lock import FolderLock

        self.root = os.path.abspath(path)
        self._lock = FolderLock(Path(self.root))

    def shown(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root

    def read(self, name: str) -> bytes:
        with open(self.shown(name), "rb") as file:
            return file.read()

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def sizes(self, folder: str) -> dict[str, int]:
        if not os.path.isdir(self.shown(folder)):
            return {}
        with os.scandir(self.shown(folder)) as entries:
            return {f"{folder}/{e.name}".lstrip("/"): e.stat().st_size for e in entries if not e.is_dir()}

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.shown(name))

    def write_exclusive(self, name: str, data: bytes) -> None:
        atomic_files.write_exclusive(Path(self.shown(name)), data)

    def write_atomic(self, name: str, data: bytes) -> None:
        atomic_files.write_atomic(Path(self.shown(name)), data)

    def append(self, name: str, data: bytes) -> None:
        with open(self.shown(name), "ab") as file:
            file.write(data)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        yield Path(self.shown(name))

    def open(self, name: str) -> Any:
        return pa.OSFile(self.shown(name))

    def size(self, name: str) -> int:
        return os.stat(self.shown(name)).st_size

    def sha256(self, name: str) -> str:
        with open(self.shown(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rename_noreplace(self, source: str, target: str) -> int:
        atomic_files.rename_noreplace(Path(self.shown(source)), Path(self.shown(target)))
        return self.size(target)

    def replace(self, source: str, target: str) -> None:
        os.replace(self.shown(source), self.shown(target))

    def remove(self, name: str) -> None:
        atomic_files.remove(Path(self.shown(name)))

    def sync(self, folders: Iterable[str]) -> None:
        for folder in folders:
            atomic_files.sync_folder(Path(self.shown(folder)))

    def entries(self) -> set[str] | None:
        if not os.path.lexists(self.root):
            return set()
        return set(os.listdir(self.root)) if os.path.isdir(self.root) else None

    def make_folders(self, folders: Iterable[str]) -> None:
        for folder in folders:
            os.makedirs(self.shown(folder), exist_ok=True)

    def acquire(self) -> None:
        self._lock.acquire()

    def require_held(self) -> None:
        """The operating system keeps the lock until this process ends."""

    def release(self) -> None:
        self._lock.release()

    def holder(self) -> Mapping[str, Any] | None:
        return self._lock.holder()
