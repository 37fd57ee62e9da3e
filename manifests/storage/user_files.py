"""Files that a user has named: reports, sheets, figures. They are written whole, or a message says why not."""

from __future__ import annotations

from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.manifests.storage.atomic_files import write_atomic


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole; its folder is made. Raises UserError, naming it, if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}): choose another file") from error
