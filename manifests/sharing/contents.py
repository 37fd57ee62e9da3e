"""What an output folder holds at one moment: its committed parts, and what tells this state from others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.commit_log import read_commit_log
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.storage.backend import open_backend


@dataclass(frozen=True, slots=True)
class Contents:
    """What is passed on of an output folder.

    Attributes:
        folder: its absolute path or its URL.
        parts: its committed data parts, in their order.
        images: how many pictures they hold.
        quarantined: how many rows have none.
        left: how many rows are still to be made.
        digest: another one for each state of the folder.
    """

    folder: str
    parts: tuple[str, ...]
    images: int
    quarantined: int
    left: int
    digest: str

    @classmethod
    def of(cls, folder: str | Path) -> Contents:
        """What a folder holds now, read without its lock.

        Raises:
            UserError: It is no output folder, or a part is not there as it was committed.
            MachineryError: It cannot be read.
        """
        held = committed_rows(str(folder))
        if held is None:
            raise UserError(f"{folder}: is no output folder of wanbatch: give the folder that `wanbatch run` filled")
        backend = open_backend(folder, reading=True)
        try:
            digest = read_commit_log(backend).committed.content_digest
        except OSError as error:
            raise machinery_error(str(folder), error, reading=True) from error
        left = held.rows - held.images - held.quarantined
        return cls(backend.root, held.parts, held.images, held.quarantined, left, digest)
