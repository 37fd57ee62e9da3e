"""The few operations on local files that the output folder's promises rest on.

Everything that creates, moves or removes a file of a local output folder goes through here. A file or folder is
absent only if the system says so (ENOENT); any other answer is an error, which names the file.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TMP_PREFIX = ".tmp-"
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Errors of the system name this file, also where it was known by its descriptor alone."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error


def is_there(path: str | Path) -> bool:
    """Whether there is anything of this name. Raises OSError if that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):  # the latter: what should be its folder is a file
        return False
    return True


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to disk, so that names made or moved in it survive a power cut."""
    sync_file(path)


def write_exclusive(path: Path, data: bytes) -> None:
    """Create a file with its content at once; it is never seen in part. Raises FileExistsError."""
    temporary = _write_temporary(path, data)
    try:
        rename_noreplace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write or replace a file; readers see the old content or the new one."""
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def ensure_content(path: Path, data: bytes) -> None:
    """Write a file whose name says its content, unless it is there as it should be."""
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    write_atomic(path, data)


def rename_noreplace(source: Path, target: Path) -> None:
    """Rename without overwriting. The caller syncs the folder. Raises FileExistsError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # A file system without hard links; the folder's lock keeps other writers out meanwhile.
        if is_there(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)
    else:
        os.unlink(source)


def make_folder(path: Path) -> None:
    """Create a folder and those that it is in, where they are missing."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise
    except FileNotFoundError:
        make_folder(path.parent)
        os.mkdir(path)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        path.unlink()


def _write_temporary(path: Path, data: bytes) -> Path:
    """Write the data durably to a new file beside `path`; returns its path."""
    temporary = path.with_name(f"{TMP_PREFIX}{secrets.token_hex(8)}-{path.name}")
    try:
        with named(temporary), open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
