"""The folder of a local Ray's files: Ray's own choice where it can be used, a short one elsewhere where it cannot.

Ray keeps sockets, logs and, where /dev/shm has no room, its object store below TMPDIR. A Unix socket's path has few
bytes, so a long TMPDIR (a job's folder, say) has no room for Ray's names; it may also be full, or be on a file
system without sockets.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from wanbatch.errors import MachineryError, UserError, WanbatchError

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of the path of a Unix socket
SESSION = "/session_2026-11-26_16-55-16_503762_4194304/sockets/plasma_store.1"  # what Ray adds to its folder, at most
LONGEST_FOLDER = SOCKET_BYTES - len(SESSION)
OBJECT_STORE_BYTES = 128 << 20  # only tasks and reports pass through Ray
FREE_BYTES = 32 << 20  # of which a session without faults takes less than 1 MB
RAY_VARIABLE, VARIABLE = "RAY_TMPDIR", "TMPDIR"
SHARED_MEMORY = "/dev/shm"
ELSEWHERE = ("/tmp", "/var/tmp", SHARED_MEMORY)
OWN_PREFIX = "wb-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder in which Ray could keep its files.

    Attributes:
        path: the folder.
        length: bytes that the path of Ray's folder in it has.
        free: bytes that are free there.
        error: why nothing can be made there; empty: it can.
        full: whether that is because there is no room.
    """

    path: str
    length: int
    free: int = 0
    error: str = ""
    full: bool = False

    @property
    def lacks_room(self) -> bool:
        """Whether it could be used if there were more room."""
        return self.length <= LONGEST_FOLDER and (self.full or (not self.error and self.free < FREE_BYTES))

    @property
    def fault(self) -> str:
        """Why Ray cannot keep its files here; empty: it can."""
        if self.length > LONGEST_FOLDER:
            return f"is too long for the paths of Ray's sockets ({self.length} bytes, at most {LONGEST_FOLDER})"
        if self.error:
            return self.error
        if self.lacks_room:
            return f"has {self.free >> 20} MB free, of {FREE_BYTES >> 20} MB that Ray needs"
        return ""


def rays_choice() -> tuple[str, str]:
    """The folder that Ray would choose itself, and the variable that says so; empty: none does."""
    for name in (RAY_VARIABLE, VARIABLE):
        if found := os.environ.get(name):
            return found, name
    return ELSEWHERE[0], ""


def look_at(folder: str, own: bool) -> FolderFacts:
    """Look whether Ray can keep its files in a folder, by making a socket in it.

    Args:
        folder: its path.
        own: whether Ray would get a folder of its own there, instead of `ray`, which all share.
    """
    shared = os.path.join(folder, "ray")
    length = len(os.fsencode(os.path.join(folder, f"{OWN_PREFIX}12345678") if own else shared))
    if length > LONGEST_FOLDER:
        return FolderFacts(folder, length)
    try:
        with tempfile.TemporaryDirectory(
            prefix=OWN_PREFIX, dir=folder if own or not _is_there(shared) else shared
        ) as t:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(os.path.join(t, "s"))
            free = shutil.disk_usage(t).free
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return FolderFacts(folder, length, error=f"cannot be used ({error.strerror or error})", full=full)
    return FolderFacts(folder, length, free)


def choose(wanted: FolderFacts, variable: str, others: Sequence[FolderFacts]) -> FolderFacts:
    """Choose where Ray keeps its files.

    Args:
        wanted: the folder that Ray would choose itself.
        variable: the one that names it, for the message; empty: none does.
        others: the folders to use instead, the best first.

    Raises:
        UserError: None can be used.
        MachineryError: One could be, if there were room, which others may give back.
    """
    for folder in (wanted, *others):
        if not folder.fault:
            return folder
    told = [f"{named(wanted.path, variable)} {wanted.fault}"]
    told += [f"{other.path} {other.fault}" for other in others if other.path != wanted.path]
    kind: type[WanbatchError] = UserError
    if any(folder.lacks_room for folder in (wanted, *others)):
        kind = MachineryError
    raise kind(
        f"no folder for Ray's files: {'; '.join(told)}: set {VARIABLE} to a folder on a local disk with a path of at "
        f"most {LONGEST_FOLDER - len('/ray')} bytes and {FREE_BYTES >> 20} MB free"
    )


def named(path: str, variable: str) -> str:
    """A folder as messages name it. variable: that it comes from; empty: none."""
    return f"{variable}={path}" if variable else path


def find_folder() -> tuple[FolderFacts, bool]:
    """Find where Ray can keep its files: the folder, and whether it is another one than Ray would choose itself.

    Raises:
        UserError: No folder can be used.
        MachineryError: None has room.
    """
    path, variable = rays_choice()
    wanted = look_at(path, own=False)
    if not wanted.fault:
        return wanted, False
    return choose(wanted, variable, [look_at(other, own=True) for other in ELSEWHERE]), True


def object_store_folder(session: str | None) -> str | None:
    """Say where Ray's object store is to be a file, if it cannot be in shared memory.

    Args:
        session: the folder of Ray's files; None: its own choice.

    Returns:
        The folder; None: Ray decides, which takes shared memory where there is room.
    """
    return (session or rays_choice()[0]) if shared_memory_error() else None


def shared_memory_error() -> str:
    """Why nothing can be made in shared memory; empty: it can, or the system keeps it elsewhere."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY):
            return ""
    except OSError as error:
        return error.strerror or str(error)


@contextmanager
def session_folder() -> Iterator[str | None]:
    """Give Ray a folder for its files.

    Yields:
        A folder that is removed at the end; None: Ray's own choice can be used, and keeps its logs.

    Raises:
        UserError: No folder can be used.
        MachineryError: None has room.
    """
    found, elsewhere = find_folder()
    if not elsewhere:
        yield None
        return
    path, variable = rays_choice()
    folder = tempfile.mkdtemp(prefix=OWN_PREFIX, dir=found.path)
    _log.warning(
        "%s %s: Ray's files are in %s meanwhile",
        named(path, variable),
        look_at(path, own=False).fault,
        folder,
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what a dying process of Ray's still writes costs no run


def _is_there(path: str) -> bool:
    with suppress(OSError):
        return os.path.isdir(path)
    return False
