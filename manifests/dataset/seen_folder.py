"""An output folder as it is: looked at without its lock and without writing, so also while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.manifests.dataset.commit_log import FIRST_GROUP, CommitLog
from wanbatch.manifests.dataset.committed import Committed
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.folder import OutputFolder, require_usable
from wanbatch.manifests.dataset.part_files import KINDS
from wanbatch.manifests.dataset.part_schemas import PartSchemas
from wanbatch.manifests.dataset.recovery import require_commits
from wanbatch.manifests.dataset.settled_log import read_settled_log
from wanbatch.manifests.storage.backend import StorageBackend, open_backend


class SeenFolder:
    """What a run that opens an output folder would find in it. Made by `SeenFolder.look_at`.

    Attributes:
        url: its absolute path or its URL.
        parts: that are committed.
        holder: host, pid and since of a run that is at work in it; None: there is none.
    """

    def __init__(self, backend: StorageBackend, log: CommitLog, holder: Mapping[str, Any] | None):
        self.url, self.holder = backend.root, holder
        self.parts = CommittedParts.of_log(backend, log)
        self._committed, self._part_schemas = log.committed, PartSchemas(backend, log.parts)

    @classmethod
    def look_at(cls, path: str | Path, fingerprint: Mapping[str, Any]) -> SeenFolder:
        """Look at a folder as `OutputFolder.open` does before it writes.

        Args:
            path: of the folder, or its URL; it need not exist.
            fingerprint: of the run that would fill it (JSON values).
        Raises:
            UserError: if the folder holds something else, or a run with another fingerprint, or lost files.
            MachineryError: if it cannot be read.
        """
        backend = open_backend(path)
        try:
            require_usable(backend, fingerprint)
            log = read_settled_log(backend, KINDS)
            require_commits(backend, log, backend.exists(FIRST_GROUP))
            return cls(backend, log, backend.holder())
        except OSError as error:
            raise machinery_error(backend.root, error, reading=True) from error

    def committed(self) -> Committed:
        """What is done."""
        return self._committed

    def later_columns(self) -> tuple[str, ...] | None:
        """Which of `columns.LATER` its data parts have; None before the first part."""
        return self._part_schemas.later

    def common_columns(self, added: pa.Schema) -> pa.Schema:
        """The schema that both its data parts and new ones can have; see `PartSchemas.with_added`.

        Raises:
            UserError: naming each column that differs, if values would be lost.
            MachineryError: if the folder cannot be read.
        """
        try:
            return self._part_schemas.with_added(added)
        except OSError as error:
            raise machinery_error(self.url, error, reading=True) from error


AnyFolder = OutputFolder | SeenFolder
"""An output folder that this process holds, or only looks at."""
