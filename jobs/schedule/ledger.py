"""The ledger: what became of each tick of each schedule, one row a tick, in a file that survives power cuts.

It is an SQLite database with a rollback journal: every change is one transaction, on the disk before the call
returns, and a tick cannot be there twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.storage.atomic_files import is_there, make_folder

State = Literal["waiting", "running", "interrupted", "ran", "failed", "skipped", "missed", "expired"]
OPEN: tuple[State, ...] = ("waiting", "running", "interrupted")
"""States of ticks that are not over; a tick in any other stays as it is."""

VERSION = 1
FILE = "ledger.sqlite"
TIME = "%Y-%m-%dT%H:%M:%SZ"
MOST_ROWS = 100_000
"""Rows that are kept of each schedule; the oldest go first."""
BUSY_SECONDS = 30.0

_TABLES = (
    "CREATE TABLE ticks (schedule TEXT NOT NULL, time TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, "
    "noted TEXT NOT NULL, attempts INTEGER NOT NULL, started TEXT, ended TEXT, exit_code INTEGER, not_before TEXT, "
    "PRIMARY KEY (schedule, time)) WITHOUT ROWID",
    "CREATE INDEX open_ticks ON ticks (schedule, time) WHERE state IN ('waiting', 'running', 'interrupted')",
    "CREATE TABLE schedules (name TEXT PRIMARY KEY, looked TEXT NOT NULL, cron TEXT NOT NULL, zone TEXT NOT NULL) "
    "WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)
_COLUMNS = "schedule, time, state, reason, noted, attempts, started, ended, exit_code, not_before"


@dataclass(frozen=True, slots=True)
class Tick:
    """A row of the ledger.

    Attributes:
        schedule: its name.
        time: the scheduled time, UTC.
        state: `waiting`, `running`, `interrupted` (to be resumed), and then for good `ran`, `failed`, `skipped`
            (the last one still ran), `missed` (nobody was there) or `expired` (past its deadline).
        reason: why, in words; empty where the state says all.
        noted: when this row was last changed.
        attempts: how often it was started.
        started, ended: the first start and the last end; None: not yet.
        exit_code: of the last attempt that ended.
        not_before: when it may be started again; None: at once.
    """

    schedule: str
    time: datetime
    state: State
    reason: str
    noted: datetime
    attempts: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    not_before: datetime | None = None

    @property
    def run_id(self) -> str:
        """Name and scheduled time, like `nightly-20261127T013000Z`."""
        return f"{self.schedule}-{stamp(self.time)}"

    @property
    def is_open(self) -> bool:
        """Whether it is not over yet."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a schedule has been looked at.

    Attributes:
        looked: UTC; what became of earlier ticks is decided.
        cron, zone: by which.
    """

    looked: datetime
    cron: str
    zone: str


def stamp(time: datetime) -> str:
    """A time as part of a file's name."""
    return time.strftime("%Y%m%dT%H%M%SZ")


class Ledger:
    """The ledger of one state folder."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        """Open the ledger of a state folder, or begin one.

        Args:
            folder: made if it is missing.
            read_only: change nothing; a ledger that is not there is an empty one.

        Raises:
            UserError: The file is no ledger, or of a later version of wanbatch.
            MachineryError: It cannot be opened.
        """
        self.path = folder / FILE
        try:
            if read_only and not is_there(self.path):
                self._base = _connect(":memory:")
            elif read_only:
                self._base = _connect(
                    f"{self.path.absolute().as_uri()}?mode=rw"
                )  # a killed writer's journal is undone
            else:
                make_folder(folder)
                self._base = _connect(self.path.absolute().as_uri())
        except OSError as error:
            raise MachineryError(
                f"{folder}: cannot be used for the ledger ({error.strerror}): free the disk or choose "
                "another folder with --state"
            ) from error
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            self._prepare()
        except BaseException:
            self._base.close()
            raise

    def _prepare(self) -> None:
        with self._errors():
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version == VERSION:
            return
        if version:
            raise UserError(f"{self.path}: is of a later version of wanbatch: use that one")
        with self.changes():
            if not self._base.execute("SELECT 1 FROM sqlite_master WHERE name = 'ticks'").fetchone():
                for statement in _TABLES:
                    self._base.execute(statement)

    def close(self) -> None:
        """Close the file; nothing is lost without."""
        self._base.close()

    @contextmanager
    def changes(self) -> Iterator[None]:
        """What is written inside is written at once or not at all, and is on the disk at the end."""
        with self._errors():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise

    def write(self, ticks: Iterable[Tick]) -> None:
        """Write rows inside `changes`, in place of those of the same ticks."""
        marks = ", ".join("?" * 10)
        self._base.executemany(f"INSERT OR REPLACE INTO ticks ({_COLUMNS}) VALUES ({marks})", map(_values, ticks))

    def add(self, ticks: Iterable[Tick]) -> list[Tick]:
        """Write rows inside `changes` of ticks that there are none of, or that were only missed.

        Several commands that run one tick each share a ledger: what one of them has decided meanwhile stays.

        Returns:
            Those that were written.
        """
        marks, values = ", ".join("?" * 10), _COLUMNS.split(", ")[2:]
        changed = ", ".join(f"{name} = excluded.{name}" for name in values)
        statement = (
            f"INSERT INTO ticks ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (schedule, time) DO UPDATE SET {changed} "
            "WHERE ticks.state = 'missed'"
        )
        return [tick for tick in ticks if self._base.execute(statement, _values(tick)).rowcount]

    def see(self, name: str, seen: Seen) -> None:
        """Note inside `changes` how far a schedule has been looked at."""
        values = (name, _text(seen.looked), seen.cron, seen.zone)
        self._base.execute("INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?)", values)

    def drop_old(self, schedule: str, most: int = MOST_ROWS) -> None:
        """Remove inside `changes` the oldest rows of a schedule that are over, but for `most` rows."""
        oldest = self._base.execute(
            "SELECT time FROM ticks WHERE schedule = ? ORDER BY time DESC LIMIT 1 OFFSET ?", (schedule, most - 1)
        ).fetchone()
        if oldest:
            marks = ", ".join("?" * len(OPEN))
            self._base.execute(
                f"DELETE FROM ticks WHERE schedule = ? AND time < ? AND state NOT IN ({marks})",
                (schedule, oldest[0], *OPEN),
            )

    def drop_missed_after(self, schedule: str, time: datetime) -> None:
        """Remove inside `changes` the rows of missed ticks after a time: the clock was ahead, they are still due."""
        self._base.execute(
            "DELETE FROM ticks WHERE schedule = ? AND time > ? AND state = 'missed'", (schedule, _text(time))
        )

    def seen(self, name: str) -> Seen | None:
        """How far a schedule has been looked at; None: never."""
        found = self._rows("SELECT looked, cron, zone FROM schedules WHERE name = ?", (name,))
        return Seen(_time(found[0][0]), found[0][1], found[0][2]) if found else None

    def open_ticks(self) -> list[Tick]:
        """The ticks of all schedules that are not over, in the order of their times."""
        marks = ", ".join(f"'{state}'" for state in OPEN)
        return self._ticks(f"WHERE state IN ({marks}) ORDER BY time, schedule", ())

    def find(self, schedule: str, times: Sequence[datetime]) -> dict[datetime, Tick]:
        """The rows of some ticks, as far as there are any."""
        if not times:
            return {}
        between = (schedule, _text(min(times)), _text(max(times)))
        rows = self._ticks("WHERE schedule = ? AND time BETWEEN ? AND ?", between)
        wanted = set(times)
        return {row.time: row for row in rows if row.time in wanted}

    def latest(self, schedule: str | None = None, count: int = 20) -> list[Tick]:
        """The latest rows, the newest first.

        Args:
            schedule: its name; None: of all.
            count: how many at most.
        """
        which, values = ("WHERE schedule = ?", (schedule,)) if schedule else ("", ())
        return self._ticks(f"{which} ORDER BY time DESC, schedule LIMIT ?", (*values, count))

    def last_started(self, schedule: str) -> Tick | None:
        """The latest tick of a schedule that was started; None: none was."""
        found = self._ticks("WHERE schedule = ? AND attempts > 0 ORDER BY time DESC LIMIT 1", (schedule,))
        return found[0] if found else None

    def _ticks(self, rest: str, values: Sequence[Any]) -> list[Tick]:
        return [_tick(row) for row in self._rows(f"SELECT {_COLUMNS} FROM ticks {rest}", values)]

    def _rows(self, statement: str, values: Sequence[Any]) -> list[tuple]:
        with self._errors():
            return self._base.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> UserError | MachineryError:
        if getattr(error, "sqlite_errorname", "") in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return UserError(
                f"{self.path}: is damaged, or no ledger ({error}): move it away, and the schedules begin a new one"
            )
        return MachineryError(
            f"{self.path}: cannot be read or written ({error}): free the disk or mend it; nothing is "
            "started that could not be noted"
        )


def _connect(uri: str) -> sqlite3.Connection:
    base = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode = DELETE")
        base.execute("PRAGMA synchronous = EXTRA")  # the folder is synced, too
        if uri == ":memory:":
            for statement in _TABLES:
                base.execute(statement)
    except BaseException:
        base.close()
        raise
    return base


def _values(tick: Tick) -> tuple:
    times = (_text(time) if time else None for time in (tick.started, tick.ended))
    return (
        tick.schedule, _text(tick.time), tick.state, tick.reason, _text(tick.noted), tick.attempts, *times,
        tick.exit_code, _text(tick.not_before) if tick.not_before else None,
    )  # fmt: skip


def _tick(row: tuple) -> Tick:
    schedule, time, state, reason, noted, attempts, started, ended, exit_code, not_before = row
    return Tick(
        schedule, _time(time), state, reason, _time(noted), attempts,
        _time(started) if started else None, _time(ended) if ended else None, exit_code,
        _time(not_before) if not_before else None,
    )  # fmt: skip


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime(TIME)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def changed(tick: Tick, now: datetime, **fields: Any) -> Tick:
    """A tick with other fields, noted now."""
    return replace(tick, noted=now.replace(microsecond=0), **fields)
