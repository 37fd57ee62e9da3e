"""Keeping other processes from writing to an output folder for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.storage.backend import StorageBackend


@contextmanager
def held_folder(backend: StorageBackend) -> Iterator[None]:
    """While this lasts, no other process writes to the folder; errors of its disk become MachineryError.

    Raises:
        FolderHeldError: A run writes to it.
        MachineryError: It cannot be used.
    """
    try:
        backend.acquire()
        try:
            yield
        finally:
            backend.release()
    except OSError as error:
        raise machinery_error(backend.root, error) from error
