"""The output folder: who may write to it, what is published, what is committed.

A unit's files are written to `_wanbatch/tmp/` by a worker, verified and moved to `data/`, `timings/` and
`failures/` by the driver, and count from the moment their commit record exists. Parts that no commit record names
are set aside when the folder is next opened. The folder is a local one or in an object store.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.manifests.dataset.card import Card, CardContent, refresh_card
from wanbatch.manifests.dataset.commit_log import COMMITS, FORMAT, published_parts, read_json, to_json
from wanbatch.manifests.dataset.committed import Committed
from wanbatch.manifests.dataset.disk_errors import disk_message, machinery_error
from wanbatch.manifests.dataset.event_log import LOG, log_line
from wanbatch.manifests.dataset.fingerprint import ENVIRONMENT, changes, completed
from wanbatch.manifests.dataset.part_files import KINDS, TMP, Attempt
from wanbatch.manifests.dataset.part_schemas import PartSchemas
from wanbatch.manifests.dataset.publisher import Publisher, RejectedAttempt
from wanbatch.manifests.dataset.recovery import recover
from wanbatch.manifests.dataset.rewrite import Told, told_nobody
from wanbatch.manifests.dataset.status import INTERNAL, RUN
from wanbatch.manifests.storage.backend import StorageBackend, open_backend
from wanbatch.manifests.storage.local import LocalBackend

_log = logging.getLogger(__name__)


class OutputFolder:
    """An output folder that this process holds. Made by `OutputFolder.open`; a context manager.

    url: its absolute path or its URL; what `write_attempt`, `status` and `write_card` take.
    """

    def __init__(self, backend: StorageBackend):
        self.url = backend.root
        self._backend = backend
        self._publisher = Publisher(backend, Committed(), None)
        self._part_schemas: PartSchemas
        self._publishing = threading.Lock()
        self._card: Card | None = None

    @property
    def path(self) -> Path:
        """The folder. Raises ValueError for one in an object store: use `url`."""
        if not isinstance(self._backend, LocalBackend):
            raise ValueError(f"{self.url} is no local folder")
        return Path(self.url)

    @classmethod
    def open(
        cls, path: str | Path, fingerprint: Mapping[str, Any], info: Mapping[str, Any] | None = None
    ) -> OutputFolder:
        """Create the folder, or go on with it, and finish or set aside what an interrupted run left half done.

        Args:
            path: of the folder, or its URL (a string).
            fingerprint: everything that must not change between the runs that fill the folder (JSON values,
                nested at will).
            info: what else to record when the folder is created (JSON values).
        Raises:
            UserError: if the folder holds something else, or a run with another fingerprint, or lost files.
                Nothing was written then.
            FolderHeldError: if another process holds it.
            MachineryError: if the disk or the store refuses.
        """
        backend = open_backend(path)
        folder = cls(backend)
        try:
            require_usable(backend, fingerprint)
            backend.make_folders((*KINDS, COMMITS, TMP))
            backend.acquire()
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(disk_message(backend.root, error)) from error
        except OSError as error:
            raise machinery_error(backend.root, error) from error
        try:
            require_usable(backend, fingerprint)  # again: another run may have been first
            if not backend.exists(RUN):
                run = {"format": FORMAT, "fingerprint": dict(fingerprint), "info": dict(info or {}), "plan": {}}
                backend.write_exclusive(RUN, to_json(run, indent=1))  # never over one that was only not seen
            folder._recover()
            folder._complete_fingerprint(fingerprint)
        except BaseException as error:
            folder.close()
            if isinstance(error, OSError):
                raise machinery_error(backend.root, error) from error
            raise
        return folder

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write to the folder."""
        self._backend.release()

    def set_plan(self, plan: Mapping[str, Any]) -> None:
        """Record what is to be made (JSON values). plan["rows"]: how many ids will end in data or failures."""
        with self._disk():
            self._backend.ensure_writer()
            run = read_json(self._backend, RUN)
            self._backend.write_atomic(RUN, to_json({**run, "plan": dict(plan)}, indent=1))

    def keep_card(self, content: CardContent) -> None:
        """Write the dataset card now, and whenever units are published.

        Raises:
            MachineryError: if the disk or the store refuses.
        """
        self._card = Card(self.url, content)
        self._update_card()

    def settle_card(self) -> None:
        """Bring the card up to date, if there is one, when nothing is published any more.

        Raises:
            MachineryError: if the disk or the store refuses.
        """
        self._update_card(settled=True)

    def _update_card(self, settled: bool = False) -> None:
        with self._publishing, self._disk():
            if self._card is not None:
                self._backend.ensure_writer()
                self._card.update(self.committed(), settled)

    def record_environment(self, values: Mapping[str, Any]) -> None:
        """Compare what is only known now of the environment with what filled the folder; record what is new.

        Args:
            values: entries of the fingerprint's `ENVIRONMENT` (JSON values).
        Raises:
            UserError: if another environment filled the folder.
            MachineryError: if the disk or the store refuses.
        """
        with self._disk():
            self._backend.ensure_writer()
            recorded = read_json(self._backend, RUN)["fingerprint"]
            of_now = {**recorded, ENVIRONMENT: json.loads(to_json(values))}
            if changed := changes(recorded, of_now):
                raise _other_settings(self._backend, changed)
            self._complete_fingerprint(of_now)

    def append_internal_file(self, name: str, data: bytes) -> None:
        """Add to the end of a file of `_wanbatch/`, such as a log.

        Args:
            name: of the file, without a folder.
            data: what to add; the last seconds of it may be lost if this process dies.
        Raises:
            MachineryError: if the disk or the store refuses.
        """
        with self._disk():
            self._backend.append(f"{INTERNAL}/{name}", data)

    def write_internal_file(self, name: str, data: bytes) -> None:
        """Write or replace a file of `_wanbatch/`; whoever reads it sees the old content or the new one.

        Args:
            name: of the file, without a folder.
            data: its content, durable on return.
        Raises:
            MachineryError: if the disk or the store refuses.
        """
        with self._disk():
            self._backend.write_atomic(f"{INTERNAL}/{name}", data)

    def later_columns(self) -> tuple[str, ...] | None:
        """Which of `columns.LATER` its data parts have; None before the first part."""
        return self._part_schemas.later

    def common_columns(self, added: pa.Schema) -> pa.Schema:
        """The schema that both its data parts and new ones can have; see `PartSchemas.with_added`.

        Raises:
            UserError: naming each column that differs, if values would be lost.
            MachineryError: if the disk or the store refuses.
        """
        with self._disk():
            return self._part_schemas.with_added(added)

    def change_columns(self, schema: pa.Schema, told: Told = told_nobody) -> None:
        """Give the data parts that have other columns those of a schema, and publish only such from now on.

        Args:
            schema: what `common_columns` gave.
            told: of each part that is written, of how many of those that have the same columns.
        Raises:
            UserError: if a part is damaged. MachineryError: if the disk or the store refuses.
        """
        if self._publisher.data_schema is None:
            return
        with self._publishing, self._disk():
            changed = 0
            for names in self._part_schemas.groups_to_change(schema):
                self._publisher.change_columns(names, schema, told)
                refresh_card(self._backend, self.committed())
                changed += len(names)
            self._publisher.expect_columns(schema)
        if changed:
            were = number_of(changed, "parts", "was", "were")
            _log.warning("%s: %s given the columns that the manifest has now", self.url, were)
            self.append_internal_file(LOG, log_line("columns_changed", parts=changed))

    def committed(self) -> Committed:
        """What is done; the same object each time, kept up to date."""
        return self._publisher.committed

    def publish(self, attempt: Attempt, verify_checksums: bool | None = None, replace: bool = False) -> None:
        """Verify the files of an attempt, move them to where readers find them, and commit them. Durable on return.

        An id that was quarantined before is taken out of its old failures part: it ends in exactly one part.

        Args:
            verify_checksums: read the files whole and compare them with what the worker wrote; default: yes, but
                not in an object store, which has checked them itself.
            replace: allow ids that are made already; their old images, timings or failures go.
        Raises:
            ValueError: if the unit is committed already, or one of its ids is made already.
            MachineryError: if a file is not whole or the disk refuses. The unit may be tried again, with a new
                attempt; after a disk error open the folder again first.
        """
        for rejected in self.publish_many([attempt], verify_checksums, replace):
            raise rejected.error

    def publish_many(
        self, attempts: Sequence[Attempt], verify_checksums: bool | None = None, replace: bool = False
    ) -> list[RejectedAttempt]:
        """Publish several attempts with few waits for the disk; may be called by several threads.

        Arguments and errors are those of `publish`. After a ValueError nothing of the group is published; after
        a MachineryError `committed().units` tells what is.

        Returns:
            The attempts whose files are not whole. All others are committed, durably.
        """
        verify = self._backend.verifies_checksums if verify_checksums is None else verify_checksums
        with self._publishing, self._disk():
            rejected = self._publisher.publish(attempts, verify, replace)
            if self._card is not None:
                self._card.follow(self.committed())
            return rejected

    def remove(self, ids: Collection[str], told: Told = told_nobody) -> None:
        """Take committed ids, made or failed, out of the dataset by one commit. Durable on return.

        Args:
            ids: at least one.
            told: of each part that is written again without them.
        Raises:
            UserError: if a part is damaged. MachineryError: if the disk or the store refuses.
        """
        with self._publishing, self._disk():
            self._part_schemas.forget(self._publisher.remove(ids, told))
            self.append_internal_file(LOG, log_line("rows_removed", rows=len(ids)))
            refresh_card(self._backend, self.committed())

    def discard(self, attempt: Attempt) -> None:
        """Remove the files of an attempt that will not be published."""
        with self._disk():
            self._backend.ensure_writer()
            for name in attempt.names.values():
                self._backend.remove(f"{TMP}/{name}")

    def _complete_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Record what the folder did not know of its environment."""
        run = read_json(self._backend, RUN)
        complete = completed(run["fingerprint"], json.loads(to_json(fingerprint)))
        if complete != run["fingerprint"]:
            self._backend.write_atomic(RUN, to_json({**run, "fingerprint": complete}, indent=1))

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Errors of the disk or the store become MachineryError."""
        try:
            yield
        except OSError as error:
            raise machinery_error(self.url, error) from error

    def _recover(self) -> None:
        """Go on from what is committed; see `recovery.recover`."""
        log = recover(self._backend)
        self._part_schemas = PartSchemas(self._backend, log.parts)
        self._publisher = Publisher(self._backend, log.committed, self._part_schemas.common)


def is_of_other_settings(path: str | Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether a run with another fingerprint filled the folder. Raises UserError, MachineryError."""
    backend = open_backend(path)
    try:
        return backend.exists(RUN) and bool(_changes(backend, fingerprint))
    except OSError as error:
        raise machinery_error(backend.root, error, reading=True) from error


def _changes(backend: StorageBackend, fingerprint: Mapping[str, Any]) -> list[str]:
    """What differs from the fingerprint of the run that filled the folder, a sentence each."""
    return changes(read_json(backend, RUN)["fingerprint"], json.loads(to_json(fingerprint)))


def require_usable(backend: StorageBackend, fingerprint: Mapping[str, Any]) -> None:
    """Raises UserError unless the folder is new, empty, or an output folder with this fingerprint."""
    names = backend.top_level_names()
    if names is None:
        raise UserError(f"{backend.root}: is not a folder: choose another output folder")
    if not backend.exists(RUN):
        if holds_other_files(backend, names):
            raise UserError(f"{backend.root}: holds other files: choose a new or empty output folder")
        return
    if changed := _changes(backend, fingerprint):
        raise _other_settings(backend, changed)


def holds_other_files(backend: StorageBackend, names: set[str]) -> bool:
    """Whether a folder without a run has more in it than what an interrupted first start leaves.

    Args:
        backend: the folder.
        names: those of all files and folders directly in it.
    """
    return not names <= {*KINDS, INTERNAL} or bool(published_parts(backend))


def _other_settings(backend: StorageBackend, changed: Sequence[str]) -> UserError:
    return UserError(
        f"{backend.root}: was filled with other settings: {'; '.join(changed)}. Use the same ones to go on, "
        "start another run beside it with --new-run, or choose another output folder"
    )
