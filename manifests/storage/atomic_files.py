"""The few file operations that the output folder's promises rest on.

Everything that creates, moves or removes a file of the output goes through here.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

TMP_PREFIX = ".tmp-"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to disk, so that names made or moved in it survive a power cut."""
    sync_file(path)


def write_exclusive(path: Path, data: bytes) -> None:
    """Create a file with its content at once; it is never seen in part. Raises FileExistsError."""
    draft = _draft(path, data)
    try:
        rename_noreplace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write or replace a file; readers see the old content or the new one."""
    draft = _draft(path, data)
    try:
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def rename_noreplace(source: Path, target: Path) -> None:
    """Rename without overwriting. The caller syncs the folder. Raises FileExistsError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links; the folder's lock keeps other writers out meanwhile.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)
    else:
        os.unlink(source)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        path.unlink()


def _draft(path: Path, data: bytes) -> Path:
    draft = path.with_name(f"{TMP_PREFIX}{secrets.token_hex(8)}-{path.name}")
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft
