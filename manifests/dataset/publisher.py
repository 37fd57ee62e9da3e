"""Publishing: attempts are verified, moved to where readers find them, and committed, several at once.

Order of a group: verify, move, sync the folders, then one commit file. An attempt that decides ids anew goes
alone: its replacements of older parts are written first, its commit record names them, and only then do they
take the places of the old ones. Killed before the record, nothing has happened; after it, `recover` goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.commit_log import (
    Committed,
    Replacement,
    commit_name,
    part_name,
    record_of,
    write_commit,
)
from wanbatch.manifests.dataset.part_files import (
    TMP,
    Attempt,
    expected_schema,
    is_data_schema,
    read_schema,
    verify_part,
)
from wanbatch.manifests.dataset.rewrite import put_in_place, remove_drafts, superseded, write_replacements
from wanbatch.manifests.storage.local import StorageBackend

A = TypeVar("A")
B = TypeVar("B")
Parts = dict[str, dict[str, Any]]
"""kind -> name, bytes and sha256 of the part."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An attempt that was not published, and why; its unit may be tried again, with a new attempt."""

    attempt: Attempt
    error: MachineryError


class Publisher:
    """Publishes into one folder; for one thread at a time.

    data_schema: of the folder's data parts, None before the first.
    """

    def __init__(self, place: StorageBackend, done: Committed, data_schema: pa.Schema | None):
        self.place, self.done, self.data_schema = place, done, data_schema

    def publish(self, attempts: Sequence[Attempt], check_bytes: bool, replace: bool) -> list[Refused]:
        """Verify and commit; returns those that are not whole. Raises ValueError, OSError."""
        self._require_new(attempts, replace)
        self.place.require_held()
        refused = self._verify(attempts, check_bytes)
        bad = {one.attempt.unit for one in refused}
        good = [attempt for attempt in attempts if attempt.unit not in bad]
        deciding_anew = {attempt.unit for attempt in good if superseded(self.done, attempt)}
        self._commit_together([attempt for attempt in good if attempt.unit not in deciding_anew])
        for attempt in good:
            if attempt.unit in deciding_anew:
                self._commit_replacing(attempt)
        return refused

    def _require_new(self, attempts: Iterable[Attempt], replace: bool) -> None:
        units, ids = set(self.done.units), set[str]()
        for attempt in attempts:
            if attempt.unit in units:
                raise ValueError(f"unit {attempt.unit} is committed already")
            units.add(attempt.unit)
            for name in attempt.all_ids():
                if name in ids:
                    raise ValueError(f"unit {attempt.unit} has {name!r}, which another unit of this group has too")
                if name in self.done.made and not replace:
                    raise ValueError(f"unit {attempt.unit} has {name!r}, which is committed as made already")
                ids.add(name)

    def _verify(self, attempts: Sequence[Attempt], check_bytes: bool) -> list[Refused]:
        """Data parts must also have the columns of the folder's first one."""
        refused = []
        for attempt in attempts:
            if self.data_schema is None and "data" in attempt.names:
                try:
                    self.data_schema = self._first_schema(attempt)
                except MachineryError as error:
                    refused.append(Refused(attempt, error))
        bad = {one.attempt.unit for one in refused}
        rest = [attempt for attempt in attempts if attempt.unit not in bad]
        problems = self._each(lambda attempt: self._problem(attempt, check_bytes), rest)
        return refused + [Refused(a, error) for a, error in zip(rest, problems, strict=True) if error is not None]

    def _first_schema(self, attempt: Attempt) -> pa.Schema:
        name = attempt.names["data"]
        schema = read_schema(self.place, f"{TMP}/{name}")
        if not is_data_schema(schema):
            raise MachineryError(f"{name}: its columns are not those of data")
        verify_part(self.place, f"{TMP}/{name}", "data", attempt.made, schema, None)
        return schema

    def _problem(self, attempt: Attempt, check_bytes: bool) -> MachineryError | None:
        try:
            for kind, name in attempt.names.items():
                schema = expected_schema(kind, self.data_schema)
                sha256 = attempt.sha256[kind] if check_bytes else None
                verify_part(self.place, f"{TMP}/{name}", kind, attempt.ids(kind), schema, sha256)
        except MachineryError as error:
            return error
        return None

    def _commit_together(self, attempts: Sequence[Attempt]) -> None:
        if attempts:
            with self._taken_back_on_error(attempts) as moved:
                parts = self._move(attempts, moved)
                seqs = range(self.done.seq + 1, self.done.seq + 1 + len(attempts))
                records = [record_of(*values) for values in zip(attempts, parts, seqs, strict=True)]
                self._write(records)
            for record in records:
                self.done.add(record)

    def _commit_replacing(self, attempt: Attempt) -> None:
        replaced = write_replacements(self.place, attempt, superseded(self.done, attempt))
        with self._taken_back_on_error([attempt], replaced) as moved:
            (parts,) = self._move([attempt], moved)
            record = record_of(attempt, parts, self.done.seq + 1, replaced)
            self._write([record])
        self.done.add(record)
        put_in_place(self.place, replaced)

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.place.require_held()
        write_commit(self.place, records)

    def _move(self, attempts: Sequence[Attempt], moved: list[str]) -> list[Parts]:
        """Move the files to their public places, durably. The workers have synced their content."""
        parts = self._each(lambda attempt: self._move_one(attempt, moved), attempts)
        self.place.sync(sorted({kind for each in parts for kind in each}))
        return parts

    def _move_one(self, attempt: Attempt, moved: list[str]) -> Parts:
        parts: Parts = {}
        for kind, name in attempt.names.items():
            target = part_name(kind, attempt.unit)
            size = self.place.rename_noreplace(f"{TMP}/{name}", target)
            moved.append(target)
            parts[kind] = {"name": target, "bytes": size, "sha256": attempt.sha256[kind]}
        return parts

    @contextmanager
    def _taken_back_on_error(
        self, attempts: Sequence[Attempt], replaced: Sequence[Replacement] = ()
    ) -> Iterator[list[str]]:
        """Yields a list for the names of what is moved; it is removed if the commit does not come to be."""
        moved: list[str] = []
        try:
            yield moved
        except OSError:
            with suppress(OSError):  # the first error is the one to report, and `recover` cleans up too
                self.place.require_held()  # else the names may be another run's by now
                if not self.place.exists(commit_name(attempt.unit for attempt in attempts)):
                    for name in moved:
                        self.place.remove(name)
                    remove_drafts(self.place, replaced)
            raise

    def _each(self, function: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """The function of each item, several at a time; each thread takes its share at once, as items are many."""
        threads = min(self.place.at_once, len(items))
        if threads < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            shares = list(pool.map(lambda first: [function(item) for item in items[first::threads]], range(threads)))
        return [shares[place % threads][place // threads] for place in range(len(items))]
