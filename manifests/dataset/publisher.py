"""Publishing: attempts are verified, moved to where readers find them, and committed, several at once.

Order of a group: verify, move, sync the folders, then one commit file. An attempt that decides ids anew goes
alone, and so does a removal of ids: its replacements of older parts are written first, its commit record names
them, and only then do they take the names of the old ones. Killed before the record, nothing has happened; after
it, the next opening of the folder goes on. So it is after an error of the disk that leaves open whether the record
was written: nothing more is published then until the folder is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.commit_log import (
    COMMITS,
    FIRST_GROUP,
    FORMAT,
    Replacement,
    columns_record,
    commit_name,
    commit_record,
    removal_record,
    to_json,
    write_commit,
)
from wanbatch.manifests.dataset.committed import Committed, part_name
from wanbatch.manifests.dataset.part_files import (
    TMP,
    Attempt,
    expected_schema,
    is_data_schema,
    read_schema,
    verify_part,
)
from wanbatch.manifests.dataset.rewrite import (
    Told,
    damage_is_of_the_machinery,
    damage_is_to_be_repaired,
    install_replacements,
    parts_holding,
    told_nobody,
    write_replacements,
    write_with_columns,
)
from wanbatch.manifests.storage.backend import StorageBackend

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_REJECTED = 16
"""Attempts in a row that may be rejected: beyond that it is not the attempts that something is wrong with."""
Parts = dict[str, dict[str, Any]]
"""kind -> name, bytes and sha256 of the part."""


@dataclass(frozen=True, slots=True)
class RejectedAttempt:
    """An attempt that was not published, and why; its unit may be tried again, with a new attempt."""

    attempt: Attempt
    error: MachineryError


class Publisher:
    """Publishes into one folder; for one thread at a time."""

    def __init__(self, backend: StorageBackend, committed: Committed, data_schema: pa.Schema | None):
        """
        Args:
            backend: the folder, of which this process is the writer.
            committed: what is committed there so far.
            data_schema: the schema of the folder's data parts; None before the first.
        """
        self._backend, self._committed, self._data_schema = backend, committed, data_schema
        self._rejected_in_a_row = 0
        self._must_be_reopened = False

    @property
    def committed(self) -> Committed:
        """What is committed, kept up to date."""
        return self._committed

    @property
    def data_schema(self) -> pa.Schema | None:
        """The schema of the folder's data parts; None before the first."""
        return self._data_schema

    def publish(self, attempts: Sequence[Attempt], verify_checksums: bool, replace: bool) -> list[RejectedAttempt]:
        """Verify, move and commit.

        Args:
            attempts: of different units and with different ids.
            verify_checksums: whether files are read whole and compared with what the worker wrote.
            replace: whether ids may be published that are made already.
        Returns:
            The attempts whose files are not whole.
        Raises:
            ValueError: if a unit or an id is committed already, or is there twice. Nothing is published then.
            OSError: if the disk or the store refuses.
            MachineryError: if too many attempts in a row were rejected, or the folder must be opened again first.
        """
        if self._must_be_reopened:
            raise MachineryError(f"{self._backend.root}: an error left it unfinished: run the same command again")
        self._require_new(attempts, replace)
        self._backend.ensure_writer()
        rejected = self._verify(attempts, verify_checksums)
        bad = {one.attempt.unit for one in rejected}
        good = [attempt for attempt in attempts if attempt.unit not in bad]
        deciding_anew = {attempt.unit for attempt in good if parts_holding(self._committed, attempt.all_ids())}
        self._commit_together([attempt for attempt in good if attempt.unit not in deciding_anew])
        for attempt in good:
            if attempt.unit in deciding_anew:
                self._commit_replacing(attempt)
        self._count_rejected(len(good), rejected)
        return rejected

    def change_columns(self, names: Sequence[str], schema: pa.Schema, told: Told = told_nobody) -> None:
        """Give data parts the columns of another schema, by one commit; their ids stay as they are.

        Args:
            names: of committed parts.
            schema: `schema_changes.common_schema` of theirs and another.
            told: of each part that is written.
        Raises:
            UserError: if a part is damaged. OSError: if the disk or the store refuses.
        """
        self._backend.ensure_writer()
        replaced = write_with_columns(self._backend, self._committed.next_unit, names, schema, told)
        self._commit_replacements(columns_record(self._committed, replaced), replaced)

    def remove(self, ids: Collection[str], told: Told = told_nobody) -> list[str]:
        """Take ids out of the dataset, all by one commit: made ones with their timings, and failed ones.

        Args:
            ids: committed ones, at least one.
            told: of each part that is written.
        Returns:
            The names of the parts that nothing was left of; all others that held ids are written again without.
        Raises:
            UserError: if a part is damaged. MachineryError: if a part does not hold what was committed with it.
            OSError: if the disk or the store refuses.
        """
        self._backend.ensure_writer()
        parts = parts_holding(self._committed, ids)
        by = f"{self._committed.next_unit:05d}-removal"
        replaced = write_replacements(self._backend, by, parts, damage_is_to_be_repaired, told)
        self._commit_replacements(removal_record(self._committed, ids, replaced), replaced)
        return [new.name for new in replaced if new.temporary is None]

    def _commit_replacements(self, record: Mapping[str, Any], replaced: Sequence[Replacement]) -> None:
        """Commit a record that has no parts of its own, and put its replacements in their places."""
        self._must_be_reopened = True
        self._write([record])
        self._committed.add(record)
        install_replacements(self._backend, replaced)
        self._must_be_reopened = False

    def expect_columns(self, schema: pa.Schema) -> None:
        """Publish data parts with this schema from now on, and no others."""
        self._data_schema = schema

    def _count_rejected(self, accepted: int, rejected: Sequence[RejectedAttempt]) -> None:
        self._rejected_in_a_row = 0 if accepted else self._rejected_in_a_row + len(rejected)
        if self._rejected_in_a_row > MAX_REJECTED:
            raise MachineryError(
                f"{self._backend.root}: {self._rejected_in_a_row} attempts in a row are not what workers wrote; "
                f"the last: {rejected[-1].error}. Check the disk, the mount or the store"
            )

    def _require_new(self, attempts: Iterable[Attempt], replace: bool) -> None:
        units, ids = set(self._committed.units), set[str]()
        for attempt in attempts:
            if attempt.unit in units:
                raise ValueError(f"unit {attempt.unit} is committed already")
            units.add(attempt.unit)
            for name in attempt.all_ids():
                if name in ids:
                    raise ValueError(f"unit {attempt.unit} has {name!r}, which another unit of this group has too")
                if name in self._committed.made and not replace:
                    raise ValueError(f"unit {attempt.unit} has {name!r}, which is committed as made already")
                ids.add(name)

    def _verify(self, attempts: Sequence[Attempt], verify_checksums: bool) -> list[RejectedAttempt]:
        """Data parts must also have the columns of the folder's first one."""
        rejected = []
        for attempt in attempts:
            if self._data_schema is None and "data" in attempt.names:
                try:
                    self._data_schema = self._first_schema(attempt)
                except MachineryError as error:
                    rejected.append(RejectedAttempt(attempt, error))
        bad = {one.attempt.unit for one in rejected}
        rest = [attempt for attempt in attempts if attempt.unit not in bad]
        problems = self._each(lambda attempt: self._problem(attempt, verify_checksums), rest)
        failed = zip(rest, problems, strict=True)
        return rejected + [RejectedAttempt(attempt, error) for attempt, error in failed if error is not None]

    def _first_schema(self, attempt: Attempt) -> pa.Schema:
        name = attempt.names["data"]
        with damage_is_of_the_machinery(self._backend, f"{TMP}/{name}"):
            schema = read_schema(self._backend, f"{TMP}/{name}")
        if not is_data_schema(schema):
            raise MachineryError(f"{name}: its columns are not those of data")
        verify_part(self._backend, f"{TMP}/{name}", "data", attempt.made, schema, None)
        return schema

    def _problem(self, attempt: Attempt, verify_checksums: bool) -> MachineryError | None:
        try:
            for kind, name in attempt.names.items():
                schema = expected_schema(kind, self._data_schema)
                sha256 = attempt.sha256[kind] if verify_checksums else None
                verify_part(self._backend, f"{TMP}/{name}", kind, attempt.ids(kind), schema, sha256)
        except MachineryError as error:
            return error
        return None

    def _commit_together(self, attempts: Sequence[Attempt]) -> None:
        if attempts:
            with self._rolled_back_on_error(attempts) as published_names:
                if not self._committed.units:
                    units = [attempt.unit for attempt in attempts]
                    self._backend.write_atomic(FIRST_GROUP, to_json({"format": FORMAT, "units": units}))
                parts = self._move(attempts, published_names)
                first = self._committed.next_seq
                seqs = range(first, first + len(attempts))
                records = [commit_record(*values) for values in zip(attempts, parts, seqs, strict=True)]
                self._write(records)
            first_ones = not self._committed.units
            for record in records:
                self._committed.add(record)
            if first_ones:
                self._backend.remove(FIRST_GROUP)

    def _commit_replacing(self, attempt: Attempt) -> None:
        parts_before = parts_holding(self._committed, attempt.all_ids())
        replaced = write_replacements(self._backend, f"{attempt.unit:05d}-{attempt.attempt}", parts_before)
        with self._rolled_back_on_error([attempt]) as published_names:
            (parts,) = self._move([attempt], published_names)
            record = commit_record(attempt, parts, self._committed.next_seq, replaced)
            self._write([record])
        self._committed.add(record)
        self._must_be_reopened = True
        install_replacements(self._backend, replaced)
        self._must_be_reopened = False

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._backend.ensure_writer()
        write_commit(self._backend, records)

    def _move(self, attempts: Sequence[Attempt], published_names: dict[str, str]) -> list[Parts]:
        """Move the files to where readers find them, durably. The workers have synced their content."""
        parts = self._each(lambda attempt: self._move_one(attempt, published_names), attempts)
        self._backend.sync(sorted({kind for each in parts for kind in each}))
        return parts

    def _move_one(self, attempt: Attempt, published_names: dict[str, str]) -> Parts:
        parts: Parts = {}
        for kind, name in attempt.names.items():
            target = part_name(kind, attempt.unit)
            size = self._backend.rename_noreplace(f"{TMP}/{name}", target)
            published_names[target] = f"{TMP}/{name}"
            parts[kind] = {"name": target, "bytes": size, "sha256": attempt.sha256[kind]}
        return parts

    @contextmanager
    def _rolled_back_on_error(self, attempts: Sequence[Attempt]) -> Iterator[dict[str, str]]:
        """Yields a dict for published part -> its name as a file of the attempt, which it gets again after an error.

        Nothing is removed: what cannot be moved back, and what the commit may yet turn out to name, is left to the
        next opening of the folder, as are replacements.
        """
        published: dict[str, str] = {}
        try:
            yield published
        except OSError:
            self._must_be_reopened = True
            with suppress(OSError):  # the first error is reported
                self._backend.ensure_writer()  # else the names may be another run's by now
                if not self._may_be_committed(commit_name(attempt.unit for attempt in attempts)):
                    for name, before in published.items():
                        self._backend.rename_noreplace(name, before)
                    self._must_be_reopened = False
            raise

    def _may_be_committed(self, name: str) -> bool:
        """Whether a commit file is there by its name or by the listing of its folder."""
        return self._backend.exists(name) or name in self._backend.sizes(COMMITS)

    def _each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The function of each item, several at a time; each thread takes its share at once, as items are many."""
        threads = min(self._backend.max_concurrency, len(items))
        if threads < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            shares = list(pool.map(lambda first: [function(item) for item in items[first::threads]], range(threads)))
        return [shares[index % threads][index // threads] for index in range(len(items))]
