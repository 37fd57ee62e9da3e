"""Copies on this host of what is elsewhere: made once however many processes want one, there whole or not at all.

Processes of one host take turns by a lock on a local disk; whoever comes second finds everything there. Locks on
network file systems may hang, so none is ever made beside the original. No torch.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from wanbatch.manifests.storage.atomic_files import sync_file, sync_folder

FREE_BYTES = 1 << 30  # that a copy leaves on its disk


def default_cache(kind: str) -> Path:
    """`wanbatch/KIND` in the user's cache folder, or in the folder of temporary files if there is no home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "wanbatch" / kind
    try:
        return Path.home() / ".cache" / "wanbatch" / kind
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"wanbatch-{kind}-{_user()}"


def made_once(target: Path, size: int, fill: Callable[[Path], object], remedy: str) -> Path:
    """Make a folder, unless it is there. What a killed process left half done of it goes.

    Args:
        target: the folder.
        size: bytes that will be in it.
        fill: puts them into an empty folder, which becomes the target when it is done.
        remedy: what to do if the disk has no room.

    Raises:
        OSError: The disk has no room, or cannot be used.
    """
    with one_at_a_time(str(target)):
        if target.is_dir():
            return target
        cache = target.parent
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(f".{target.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(cache).free
        if free < size + FREE_BYTES:
            raise OSError(f"{cache} has {free >> 20} MB free, and {target.name} needs {size >> 20} MB: {remedy}")
        begun = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=cache))
        try:
            fill(begun)
            _sync(begun)  # it is never asked again whether what is there is whole
            os.rename(begun, target)
            sync_folder(cache)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return target


def _sync(folder: Path) -> None:
    """Force all that is in a folder to disk: a power cut after it has its name leaves no file of it cut off."""
    for here, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(here, name))
        sync_folder(Path(here))


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Let one process of this host in at a time; the lock of one that dies is free again.

    Args:
        what: the same text for the same thing.
    """
    folder = Path(tempfile.gettempdir()) / f"wanbatch-locks-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.lock"):
        yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have them
        return str(os.getuid())
