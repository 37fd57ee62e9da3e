"""The lock of a manifest that commands add rows to: what one reads and writes anew, no other changes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wanbatch.jobs.augment.manifest_file import unwritable
from wanbatch.manifests.storage.lock_file import LockFile


@contextmanager
def locked_manifest(target: Path, say: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, no other command of recipes writes a manifest; one that comes meanwhile waits.

    The lock is a hidden file beside the manifest, which goes with the last one that holds it.

    Args:
        target: the manifest, which need not be there yet.
        say: is told once if another command has it.
    Raises:
        UserError: It cannot be locked, since its folder cannot be written to.
    """
    path = target.absolute()
    try:
        lock = LockFile(path.with_name(f".{path.name}.lock"))
    except OSError as error:
        raise unwritable(target, error) from error
    mine = False
    try:
        try:
            mine = lock.take()
            if not mine:
                say(f"{target}: another command of wanbatch writes it: waiting until it is done")
                mine = lock.take(wait=True)
        except OSError as error:
            raise unwritable(target, error) from error
        yield
    finally:
        lock.close(remove=mine)
