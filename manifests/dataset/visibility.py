"""Whether two processes, perhaps on two hosts, see the same output folder: one leaves a mark, the other takes it.

A worker whose node does not share the folder would write its attempts where no driver finds them.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from wanbatch.errors import MachineryError, NodeError
from wanbatch.manifests.dataset.part_files import TMP
from wanbatch.manifests.storage.backend import open_backend

PATIENCE_SECONDS = 20.0
"""How long a mark may take to be seen: network file systems keep what they know of a folder for seconds."""
REMEDY = "share the folder with every host that has workers, or use an output in an object store (s3://...)"


def leave_mark(root: str | Path, host: str) -> str:
    """Write a small file of a new name into the output folder's `_wanbatch/tmp/`.

    Args:
        root: the output folder, a path or a URL; it must be there.
        host: the name of this machine, for the message.

    Returns:
        The mark: the name and the content of the file.

    Raises:
        NodeError: The folder is not there, or cannot be written to.
    """
    mark = f"mark-{secrets.token_hex(8)}"
    backend = open_backend(root)
    try:
        backend.write_exclusive(f"{TMP}/{mark}", mark.encode())
    except OSError as error:
        raise NodeError(
            f"host {host}: cannot write to the output folder {backend.root} ({error.strerror or error}): {REMEDY}"
        ) from error
    return mark


def take_mark(root: str | Path, mark: str, host: str, patience: float | None = None) -> None:
    """Read the mark that another process left, and remove it.

    Args:
        root: the output folder as this process sees it.
        mark: what `leave_mark` returned there.
        host: the name of the machine that left it, for the message.
        patience: seconds to wait for it to be seen; default: `PATIENCE_SECONDS`.

    Raises:
        NodeError: It is not seen here, so the other process has another folder of this name.
        MachineryError: It is damaged, or cannot be removed.
    """
    backend, name = open_backend(root), f"{TMP}/{mark}"
    end = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
    pause = 0.05
    while True:
        try:
            found = backend.read(name)
            break
        except OSError as error:
            if time.monotonic() >= end:
                raise NodeError(
                    f"host {host}: what its worker writes to the output folder {backend.root} is not seen by this "
                    f"process ({error.strerror or error}): {REMEDY}"
                ) from error
        time.sleep(pause)
        pause = min(1.0, 2 * pause)
    if found != mark.encode():
        raise MachineryError(
            f"host {host}: {backend.location(name)} is not read as its worker wrote it: check the disk"
        )
    try:
        backend.remove(name)
    except OSError as error:
        raise MachineryError(f"{backend.location(name)}: cannot be removed ({error.strerror or error})") from error
