"""Storage backends: an output folder on a local disk or in an object store, behind one protocol.

The rules of publishing, committing and recovering are written once, over these few operations. Names of files are
relative to the folder, with `/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from wanbatch.errors import UserError
from wanbatch.manifests.storage.local import LocalBackend
from wanbatch.manifests.storage.object_store import ObjectStoreBackend
from wanbatch.manifests.storage.urls import is_hub, is_url, local_path


class StorageBackend(Protocol):
    """A folder. Its operations raise OSError (FileNotFoundError, FileExistsError, ...) and nothing else.

    Attributes:
        root: the absolute path or the URL of the folder; `open_backend` finds it again by that.
        max_concurrency: how many operations are worth doing at the same time.
        verifies_checksums: whether a part is read whole before it is published, to compare its checksum with the
            one of what was written, unless the caller says otherwise.
    """

    root: str
    max_concurrency: int
    verifies_checksums: bool

    def location(self, name: str) -> str:
        """The absolute path or the URL of a file, for messages too."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file."""
        ...

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """The contents of many files, in their order."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """The files directly in a folder, name -> bytes; none if there is no such folder."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def write_exclusive(self, name: str, data: bytes) -> None:
        """Create a file with its content at once, durably. Raises FileExistsError, also in a race."""
        ...

    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace a file durably; readers see the old content or the new one."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file. What was added last may be lost if this process dies."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        """A context manager: a local path to create and sync; the file has its name when it ends well."""
        ...

    def open(self, name: str) -> AbstractContextManager[Any]:
        """A context manager: a file that pyarrow reads in any order."""
        ...

    def size(self, name: str) -> int:
        """The number of bytes of a file."""
        ...

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file's content, hex."""
        ...

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

    def top_level_names(self) -> set[str] | None:
        """The names of all files and folders directly in the root; None if the root is not a folder."""
        ...

    def make_folders(self, folders: Iterable[str]) -> None:
        """Create these folders where they are missing."""
        ...

    def acquire(self) -> None:
        """Become the only writer. Raises FolderHeldError, naming the other one."""
        ...

    def ensure_writer(self) -> None:
        """Raises OSError if another process may have become the writer meanwhile."""
        ...

    def release(self) -> None:
        """Let others become the writer; nothing happens if this process is not it."""
        ...

    def holder(self) -> Mapping[str, Any] | None:
        """`host`, `pid` and `since` of the writer; None if there is none, or it is known to be gone."""
        ...


def open_backend(root: str | Path, reading: bool = False) -> StorageBackend:
    """The backend of an output folder, which need not exist yet.

    Args:
        root: a local path, or the URL of a folder in an object store (a string).
        reading: nothing will be written, so the folder may be on the Hugging Face Hub, too.
    Raises:
        UserError: for a URL that cannot hold an output folder.
    """
    if not reading and is_url(root) and is_hub(str(root)):
        raise UserError(
            f"{root}: the Hugging Face Hub is only read: give --out a folder or a store, and publish it afterwards "
            "with `wanbatch push OUT hf://OWNER/NAME --license LICENCE`"
        )
    return ObjectStoreBackend(str(root)) if is_url(root) else LocalBackend(local_path(root))
