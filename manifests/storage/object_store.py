"""An output folder in an object store, with the rules of a local one.

A store has no rename: a file is moved by a copy inside the store. What must be created only once (commit
records, leases) is written with a condition that the store checks. What `put` has answered is durable.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from wanbatch.manifests.storage.fsspec_io import StoreFile, file_system, os_errors
from wanbatch.manifests.storage.lease import Lease
from wanbatch.manifests.storage.urls import plain_url

READ_BATCH = 1000
VERIFY_BUFFER = 64 << 10
APPEND_SECONDS = 10.0
APPEND_RATE = 100_000  # bytes a second, at most, that keeping appended files up to date may cost

_log = logging.getLogger(__name__)


class _AppendedFile:
    """A file that grows here and is written anew to the store now and then, since a store cannot append."""

    def __init__(self, content: bytes, write: Callable[[bytes], None]):
        self._content, self._write = bytearray(content), write
        self._written = 0  # bytes of it in the store
        self._due = 0.0  # when to write it (monotonic)

    def append(self, data: bytes) -> None:
        self._content += data
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write what the store does not have yet."""
        if self._written < len(self._content):
            self._write(bytes(self._content))
            self._written = len(self._content)
            self._due = time.monotonic() + max(APPEND_SECONDS, self._written / APPEND_RATE)


class ObjectStoreBackend:
    """A folder of an object store that has conditional writes; see `backend.StorageBackend`."""

    max_concurrency = 16
    verifies_checksums = False  # the store has checked them as they came

    def __init__(self, url: str):
        self.root = plain_url(url)
        self._system = file_system(self.root)
        self._lease = Lease(self)
        self._appended: dict[str, _AppendedFile] = {}

    def location(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        with os_errors(self.location(name)):
            return self._system.cat_file(self.location(name))

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        for first in range(0, len(names), READ_BATCH):
            paths = [self.location(name) for name in names[first : first + READ_BATCH]]
            with os_errors(self.root):  # `cat` would take `[`, `*` and `?` in them for patterns
                found = self._system.cat_ranges(paths, None, None, on_error="raise")
            yield from found

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: entry["size"] for name, entry in self._listed(folder).items() if entry["type"] == "file"}

    def top_level_names(self) -> set[str] | None:
        return set(self._listed(""))

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        with os_errors(self.location(name)):
            found = self._system.info(self.location(name))
        if found["type"] != "file":
            raise FileNotFoundError(f"{self.location(name)} is not a file")
        return found["size"]

    def modified(self, name: str) -> float:
        """When a file was written, by the store's clock, in seconds."""
        with os_errors(self.location(name)):
            return self._system.modified(self.location(name)).timestamp()

    def write_exclusive(self, name: str, data: bytes) -> None:
        try:
            with os_errors(self.location(name)):
                self._system.pipe_file(self.location(name), data, mode="create")
        except FileExistsError:
            if self.read(name) != data:  # else it is ours: the answer was lost and the request made again
                raise

    def write_atomic(self, name: str, data: bytes) -> None:
        with os_errors(self.location(name)):
            self._system.pipe_file(self.location(name), data)

    def append(self, name: str, data: bytes) -> None:
        """The file is kept here, and written anew every few seconds and by `release`."""
        if name not in self._appended:
            before = self.read(name) if self.exists(name) else b""
            self._appended[name] = _AppendedFile(before, partial(self.write_atomic, name))
        self._appended[name].append(data)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        if self.exists(name):
            raise FileExistsError(f"{self.location(name)} exists")
        with tempfile.TemporaryDirectory(prefix="wanbatch-") as folder:
            temporary = Path(folder) / "part"
            yield temporary
            with os_errors(self.location(name)):
                self._system.put_file(str(temporary), self.location(name))
            if self.size(name) != temporary.stat().st_size:
                raise OSError(f"{self.location(name)}: the store has {self.size(name)} bytes of it")

    def open(self, name: str) -> Any:
        return StoreFile.open(self._system, self.location(name), VERIFY_BUFFER)

    def sha256(self, name: str) -> str:
        with StoreFile.open(self._system, self.location(name), 8 << 20) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def rename_noreplace(self, source: str, target: str) -> int:
        if self.exists(target):  # the lease keeps other writers out meanwhile
            raise FileExistsError(f"{self.location(target)}: File exists")
        size = self._copy(source, target)
        self.remove(source)
        return size

    def replace(self, source: str, target: str) -> None:
        self._copy(source, target)
        self.remove(source)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError), os_errors(self.location(name)):
            self._system.rm_file(self.location(name))

    def sync(self, folders: Iterable[str]) -> None:
        """What a store has answered for is durable."""

    def make_folders(self, folders: Iterable[str]) -> None:
        """A store has none."""

    def acquire(self) -> None:
        self._lease.acquire()

    def ensure_writer(self) -> None:
        self._lease.ensure_held()

    def release(self) -> None:
        try:
            if self._appended:
                self.ensure_writer()
            for file in self._appended.values():
                file.flush()
        except OSError as error:  # the lease must be given back all the same
            _log.warning(
                "%s: the end of %s may be missing (%s)", self.root, ", ".join(self._appended), error.strerror
            )
        self._appended.clear()
        self._lease.release()

    def holder(self) -> Mapping[str, Any] | None:
        return self._lease.holder()

    def _copy(self, source: str, target: str) -> int:
        """Inside the store; returns the size."""
        size = self.size(source)
        with os_errors(self.location(target)):
            self._system.cp_file(self.location(source), self.location(target))
        if self.size(target) != size:
            raise OSError(f"{self.location(target)}: was not copied whole")
        return size

    def _listed(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """What is directly in a folder, by name relative to the root."""
        path = self._system._strip_protocol(self.location(folder))
        base = self._system._strip_protocol(self.root)
        try:
            with os_errors(self.location(folder)):
                found = self._system.ls(self.location(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        named = ((entry["name"].rstrip("/"), entry) for entry in found)
        return {name[len(base) + 1 :]: entry for name, entry in named if name != path}
