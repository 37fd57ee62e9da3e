"""An output folder in an object store, with the rules of a local one.

A store has no rename: a file is moved by a copy inside the store. What must be created only once (commit
records, leases) is written with a condition that the store checks. What `put` has answered is durable.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.manifests.storage.fsspec_io import StoreFile, file_system, os_errors, plain_url
from wanbatch.manifests.storage.lease import Lease

READ_AT_ONCE = 1000
VERIFY_BUFFER = 64 << 10
APPEND_SECONDS = 10.0
APPEND_RATE = 100_000  # bytes a second, at most, that keeping appended files up to date may cost


@dataclass(slots=True)
class _Appended:
    """A file that is being appended to. written: bytes of it in the store. due: when to write it (monotonic)."""

    content: bytearray
    written: int = 0
    due: float = 0.0


class ObjectStoreBackend:
    """A folder of an object store that has conditional writes; see `places.Place` for the operations."""

    at_once = 16
    check_bytes = False  # the store has checked them as they came

    def __init__(self, url: str):
        self.root = plain_url(url)
        self._system = file_system(self.root)
        self._lease = Lease(self)
        self._appended: dict[str, _Appended] = {}

    def shown(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        with os_errors(self.shown(name)):
            return self._system.cat_file(self.shown(name))

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        for first in range(0, len(names), READ_AT_ONCE):
            paths = [self.shown(name) for name in names[first : first + READ_AT_ONCE]]
            with os_errors(self.root):
                found = self._system.cat(paths)
            yield from (found[self._system._strip_protocol(path)] for path in paths)

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: entry["size"] for name, entry in self._listed(folder).items() if entry["type"] == "file"}

    def entries(self) -> set[str] | None:
        return set(self._listed(""))

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        return self.info(name)["size"]

    def info(self, name: str) -> Mapping[str, Any]:
        """What the store knows of a file: `size`, and `LastModified` or the like. Raises FileNotFoundError."""
        with os_errors(self.shown(name)):
            found = self._system.info(self.shown(name))
        if found["type"] != "file":
            raise FileNotFoundError(f"{self.shown(name)} is no file")
        return found

    def modified(self, name: str) -> float:
        """When a file was written, by the store's clock, in seconds."""
        with os_errors(self.shown(name)):
            return self._system.modified(self.shown(name)).timestamp()

    def write_exclusive(self, name: str, data: bytes) -> None:
        try:
            with os_errors(self.shown(name)):
                self._system.pipe_file(self.shown(name), data, mode="create")
        except FileExistsError:
            if self.read(name) != data:  # else it is ours: the answer was lost and the request made again
                raise

    def write_atomic(self, name: str, data: bytes) -> None:
        with os_errors(self.shown(name)):
            self._system.pipe_file(self.shown(name), data)

    def append(self, name: str, data: bytes) -> None:
        """A store cannot append: the file is kept here and written anew now and then, and by `release`."""
        if name not in self._appended:
            before = self.read(name) if self.exists(name) else b""
            self._appended[name] = _Appended(bytearray(before))
        file = self._appended[name]
        file.content += data
        if time.monotonic() >= file.due:
            self._write_appended(name)

    def _write_appended(self, name: str) -> None:
        file = self._appended[name]
        self.write_atomic(name, bytes(file.content))
        file.written = len(file.content)
        file.due = time.monotonic() + max(APPEND_SECONDS, file.written / APPEND_RATE)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        if self.exists(name):
            raise FileExistsError(f"{self.shown(name)} exists")
        with tempfile.TemporaryDirectory(prefix="wanbatch-") as folder:
            draft = Path(folder) / "part"
            yield draft
            with os_errors(self.shown(name)):
                self._system.put_file(str(draft), self.shown(name))
            if self.size(name) != draft.stat().st_size:
                raise OSError(f"{self.shown(name)}: the store has {self.size(name)} bytes of it")

    def open(self, name: str) -> Any:
        return StoreFile.open(self._system, self.shown(name), VERIFY_BUFFER)

    def sha256(self, name: str) -> str:
        with StoreFile.open(self._system, self.shown(name), 8 << 20) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def rename_noreplace(self, source: str, target: str) -> int:
        if self.exists(target):  # the lease keeps other writers out meanwhile
            raise FileExistsError(f"{self.shown(target)}: File exists")
        size = self._copy(source, target)
        self.remove(source)
        return size

    def replace(self, source: str, target: str) -> None:
        self._copy(source, target)
        self.remove(source)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError), os_errors(self.shown(name)):
            self._system.rm_file(self.shown(name))

    def sync(self, folders: Iterable[str]) -> None:
        """What a store has answered for is durable."""

    def make_folders(self, folders: Iterable[str]) -> None:
        """A store has none."""

    def acquire(self) -> None:
        self._lease.acquire()

    def require_held(self) -> None:
        self._lease.require_held()

    def release(self) -> None:
        with suppress(OSError):  # its end may be lost; the lease must be given back all the same
            self.require_held()
            for name, file in self._appended.items():
                if file.written < len(file.content):
                    self._write_appended(name)
        self._appended.clear()
        self._lease.release()

    def holder(self) -> Mapping[str, Any] | None:
        return self._lease.holder()

    def _copy(self, source: str, target: str) -> int:
        """Inside the store; returns the size."""
        size = self.size(source)
        with os_errors(self.shown(target)):
            self._system.cp_file(self.shown(source), self.shown(target))
        if self.size(target) != size:
            raise OSError(f"{self.shown(target)}: was not copied whole")
        return size

    def _listed(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """What is directly in a folder, by name relative to the root."""
        path = self._system._strip_protocol(self.shown(folder))
        base = self._system._strip_protocol(self.root)
        try:
            with os_errors(self.shown(folder)):
                found = self._system.ls(self.shown(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        entries = ((entry["name"].rstrip("/"), entry) for entry in found)
        return {name[len(base) + 1 :]: entry for name, entry in entries if name != path}
