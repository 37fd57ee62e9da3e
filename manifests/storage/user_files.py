"""Files that a user has named: reports, sheets, figures. They are written whole, or a message says why not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.manifests.storage.atomic_files import write_atomic


def require_place(path: Path, folder: bool = False) -> None:
    """Check that a file can be written, before the work whose result it is to have. Nothing is made.

    Args:
        path: of the file; the folder that it is in may be missing.
        folder: it is a folder, there or not, that files are to be written to.

    Raises:
        UserError: It cannot.
    """
    file = path / "any" if folder else path
    there = next(place for place in file.absolute().parents if os.path.lexists(place))
    if os.path.isdir(file) and not folder:
        raise _refused(path, os.strerror(errno.EISDIR))
    if not os.path.isdir(there):
        raise _refused(path, f"{there} is no folder", folder)
    if not os.access(there, os.W_OK | os.X_OK):
        raise _refused(path, f"nothing can be written to {there}", folder)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole; its folder is made. Raises UserError, naming it, if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _refused(path: Path, why: str, folder: bool = False) -> UserError:
    return UserError(f"{path}: cannot be written ({why}): choose another {'folder' if folder else 'file'}")
