"""The output folder: who may write to it, what is published, what is committed.

A unit's files are written to `_wanbatch/tmp/` by a worker, verified and moved to `data/`, `timings/` and
`failures/` by the driver, and count from the moment their commit record exists. Files that no commit record
names are removed when the folder is next opened. The folder is a local one or in an object store.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.card import write_card
from wanbatch.manifests.dataset.commit_log import (
    COMMITS,
    FORMAT,
    Committed,
    Ledger,
    published,
    read_json,
    read_ledger,
    require_whole,
    to_json,
)
from wanbatch.manifests.dataset.part_files import KINDS, TMP, Attempt, open_parts, read_schema, write_attempt
from wanbatch.manifests.dataset.publisher import Publisher, Refused
from wanbatch.manifests.dataset.status import RUN, read_note, status
from wanbatch.manifests.records import DATA_SCHEMA
from wanbatch.manifests.storage import atomic_files
from wanbatch.manifests.storage.local import LocalBackend, StorageBackend, backend_for

__all__ = [
    "Attempt",
    "Committed",
    "OutputFolder",
    "Refused",
    "is_of_other_settings",
    "open_parts",
    "read_note",
    "status",
    "write_attempt",
    "write_card",
]

PRIVATE = "_wanbatch"


class OutputFolder:
    """An output folder that this process holds. Made by `OutputFolder.open`; a context manager.

    url: its absolute path or its URL; what `write_attempt`, `status` and `write_card` take.
    """

    def __init__(self, place: StorageBackend):
        self.url = place.root
        self._place = place
        self._publisher = Publisher(place, Committed(), None)
        self._publishing = threading.Lock()

    @property
    def path(self) -> Path:
        """The folder. Raises ValueError for one in an object store: use `url`."""
        if not isinstance(self._place, LocalBackend):
            raise ValueError(f"{self.url} is no local folder")
        return Path(self.url)

    @classmethod
    def open(
        cls, path: str | Path, fingerprint: Mapping[str, Any], info: Mapping[str, Any] | None = None
    ) -> OutputFolder:
        """Create the folder, or go on with it, and finish or remove what an interrupted run left half done.

        Args:
            path: of the folder, or its URL (a string).
            fingerprint: everything that must not change between the runs that fill the folder (JSON values,
                nested at will). info: what else to note when the folder is created (JSON values).
        Raises:
            UserError: if the folder holds something else, or a run with another fingerprint, or lost files.
                Nothing was written then.
            FolderHeldError: if another process holds it.
            MachineryError: if the disk or the store refuses.
        """
        place = backend_for(path)
        folder = cls(place)
        try:
            _require_usable(place, fingerprint)
            place.make_folders((*KINDS, COMMITS, TMP))
            place.acquire()
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"{place.root}: cannot be written to ({error.strerror or error})") from error
        except OSError as error:
            raise _machinery(place, error) from error
        try:
            _require_usable(place, fingerprint)  # again: another run may have been first
            if not place.exists(RUN):
                run = {"format": FORMAT, "fingerprint": dict(fingerprint), "info": dict(info or {}), "plan": {}}
                place.write_atomic(RUN, to_json(run, indent=1))
            folder.recover()
        except BaseException as error:
            folder.close()
            if isinstance(error, OSError):
                raise _machinery(place, error) from error
            raise
        return folder

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write to the folder."""
        self._place.release()

    def set_plan(self, plan: Mapping[str, Any]) -> None:
        """Note what is to be made (JSON values). plan["rows"]: how many ids will end in data or failures."""
        with self._disk():
            run = read_json(self._place, RUN)
            self._place.write_atomic(RUN, to_json({**run, "plan": dict(plan)}, indent=1))

    def write_note(self, name: str, data: bytes) -> None:
        """Write or replace a file of `_wanbatch/` that is the caller's, like a log. name: without folders."""
        with self._disk():
            self._place.write_atomic(f"{PRIVATE}/{name}", data)

    def append_note(self, name: str, data: bytes) -> None:
        """Add to the end of a file of `_wanbatch/`. Its last seconds may be lost if this process dies."""
        with self._disk():
            self._place.append(f"{PRIVATE}/{name}", data)

    def require_columns(self, passthrough: pa.Schema) -> None:
        """Check that what is published has these passthrough columns, so that all parts can be read as one.

        Raises:
            UserError: naming each column that differs, for example as a longer JSONL manifest gave it another
                type.
        """
        if self._publisher.data_schema is None:
            return
        old = {f.name: f.type for f in self._publisher.data_schema if f.name not in DATA_SCHEMA.names}
        new = {f.name: f.type for f in passthrough}
        changed = [name for name in old | new if old.get(name) != new.get(name)]
        before, now = ({name: str(kinds[name]) for name in changed if name in kinds} for kinds in (old, new))
        differences = list(_differences(before, now))
        if not differences and list(old) != list(new):
            differences = [f"their order was {', '.join(old)}"]
        if differences:
            raise UserError(
                f"{self.url}: has other columns than the manifest: {'; '.join(differences)}. "
                "Make the manifest's columns like they were, or choose another output folder"
            )

    def committed(self) -> Committed:
        """What is done; the same object each time, kept up to date."""
        return self._publisher.done

    def publish(self, attempt: Attempt, check_bytes: bool | None = None, replace: bool = False) -> None:
        """Verify the files of an attempt, move them to their places, and commit them. Durable on return.

        An id that was quarantined before is taken out of its old failures part: it ends in exactly one part.

        Args:
            check_bytes: read the files whole and compare them with what the worker wrote; default: yes, but
                not in an object store, which has checked them itself.
            replace: allow ids that are made already; their old images, timings or failures go.
        Raises:
            ValueError: if the unit is committed already, or one of its ids is made already.
            MachineryError: if a file is not whole or the disk refuses. The unit may be tried again, with a new
                attempt; after a disk error open the folder again first.
        """
        for refused in self.publish_many([attempt], check_bytes, replace):
            raise refused.error

    def publish_many(
        self, attempts: Sequence[Attempt], check_bytes: bool | None = None, replace: bool = False
    ) -> list[Refused]:
        """Publish several attempts with few waits for the disk; may be called by several threads.

        Arguments and errors are those of `publish`. After a ValueError nothing of the group is published; after
        a MachineryError `committed().units` tells what is.

        Returns:
            The attempts whose files are not whole. All others are committed, durably.
        """
        check = self._place.check_bytes if check_bytes is None else check_bytes
        with self._publishing, self._disk():
            return self._publisher.publish(attempts, check, replace)

    def discard(self, attempt: Attempt) -> None:
        """Remove the files of an attempt that will not be published."""
        with self._disk():
            for name in attempt.names.values():
                self._place.remove(f"{TMP}/{name}")

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Errors of the disk or the store become MachineryError."""
        try:
            yield
        except OSError as error:
            raise _machinery(self._place, error) from error

    def recover(self) -> list[str]:
        """Read the commits, finish what a killed run had committed, remove what it had not; called by `open`.

        Returns:
            The names of the removed files, relative to the folder.
        Raises:
            UserError: if a committed file is gone or has another size.
        """
        place = self._place
        ledger = read_ledger(place)
        drafts = place.sizes(TMP)
        _finish_replacements(place, ledger, drafts)
        found = published(place)
        require_whole(place, ledger.parts, found)
        stale = {name for name in found if name not in ledger.parts} | drafts.keys()
        for folder in ("", PRIVATE, COMMITS):
            stale |= {n for n in place.sizes(folder) if n.rpartition("/")[2].startswith(atomic_files.TMP_PREFIX)}
        for name in stale:
            place.remove(name)
        first = next((name for name in ledger.parts if name.startswith("data/")), None)
        schema = read_schema(place, first) if first else None
        self._publisher = Publisher(place, ledger.committed, schema)
        return sorted(stale)


def _machinery(place: StorageBackend, error: OSError) -> MachineryError:
    return MachineryError(f"{place.root}: cannot be written to ({error.strerror or error})")


def _finish_replacements(place: StorageBackend, ledger: Ledger, drafts: Mapping[str, int]) -> None:
    """Put committed replacements of parts in place; a draft that is gone is there already."""
    ready = {name: part.draft for name, part in ledger.parts.items() if part.draft in drafts}
    for name, draft in ready.items():
        assert draft is not None
        place.replace(draft, name)
    for name in ledger.dropped:
        place.remove(name)
    place.sync({name.partition("/")[0] for name in (*ready, *ledger.dropped)})


def is_of_other_settings(path: str | Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether a run with another fingerprint filled the folder. Raises UserError, MachineryError."""
    place = backend_for(path)
    try:
        return place.exists(RUN) and bool(_changes(place, fingerprint))
    except OSError as error:
        raise MachineryError(f"{place.root}: cannot be read ({error.strerror or error})") from error


def _changes(place: StorageBackend, fingerprint: Mapping[str, Any]) -> list[str]:
    """What differs from the fingerprint of the run that filled the folder, a sentence each."""
    return list(_differences(read_json(place, RUN)["fingerprint"], json.loads(to_json(fingerprint))))


def _require_usable(place: StorageBackend, fingerprint: Mapping[str, Any]) -> None:
    """Raises UserError unless the place is new, empty, or an output folder with this fingerprint."""
    entries = place.entries()
    if entries is None:
        raise UserError(f"{place.root}: is not a folder: choose another output folder")
    if not place.exists(RUN):
        started = entries <= {*KINDS, PRIVATE} and not published(place)
        if not started:  # only what an interrupted first start leaves is fine
            raise UserError(f"{place.root}: holds other files: choose a new or empty output folder")
        return
    if differences := _changes(place, fingerprint):
        raise UserError(
            f"{place.root}: was filled with other settings: {'; '.join(differences)}. Use the same ones to go on, "
            "start another run beside it with --new-run, or choose another output folder"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Each value that differs, as a sentence; keys of nested objects are joined with dots."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{name}.{key}" if name else key
            yield from _differences(old.get(key), new.get(key), place)
    elif old != new:
        yield f"{name} was {_said(old)}, now {_said(new)}"


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
