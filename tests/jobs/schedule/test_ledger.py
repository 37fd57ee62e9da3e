"""The ledger's file: killed at every system call that changes it, on disks that fail, and with many rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from ledger_writer import FIRST, row

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.schedule.ledger import Ledger, Seen, Tick

WRITER = Path(__file__).parents[2] / "support" / "ledger_writer.py"
CALLS = "openat,pwrite64,write,fsync,fdatasync,unlink,ftruncate"
ROWS = 3

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def traced(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Run the writer under strace, for calls on files of the ledger alone."""
    paths = [word for name in ("ledger.sqlite", "ledger.sqlite-journal") for word in ("-P", str(folder / name))]
    command = ["strace", "-f", "-qq", *paths, *options, sys.executable, str(WRITER), str(folder), str(ROWS)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def rows_in(folder: Path) -> tuple[list[Tick], Seen | None]:
    ledger = Ledger(folder, read_only=True)
    try:
        return ledger.latest()[::-1], ledger.seen("nightly")
    finally:
        ledger.close()


@strace
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_every_call(tmp_path, step):
    """What was told to be written is there; a row and what belongs to it are there together; and it goes on."""
    calls = tmp_path / "calls"
    whole = traced(tmp_path / "whole", "-o", str(calls), "-e", f"trace={CALLS}")
    assert whole.returncode == 0, whole.stderr
    names = [line.split("(")[0].split()[-1] for line in calls.read_text().splitlines()]
    assert names.count("fdatasync") + names.count("fsync") >= 2 * ROWS, "every change is forced to the disk"
    assert len(names) > 40
    seen = set()
    each = [(name, names[:index].count(name) + 1) for index, name in enumerate(names)]
    for name, number in each[::step]:
        folder = tmp_path / f"{name}{number}"
        done = traced(folder, "-o", os.devnull, "-e", f"inject={name}:signal=KILL:when={number}")
        assert done.returncode in (-9, 137), (name, number, done.stderr)
        told = len(done.stdout.split())
        rows, looked = rows_in(folder)
        seen.add(len(rows))
        assert told <= len(rows) <= told + 1
        assert rows == [row(n) for n in range(len(rows))]
        assert (looked.looked if looked else None) == (rows[-1].time if rows else None)
        again = subprocess.run([sys.executable, str(WRITER), str(folder), str(ROWS)], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert rows_in(folder) == rows_in(tmp_path / "whole")
    assert seen >= {0, 1, 2} if step == 1 else len(seen) > 1


@strace
@pytest.mark.parametrize(
    "fault", ["pwrite64:error=ENOSPC:when=9", "fdatasync:error=EIO:when=6", "openat:error=EACCES:when=4"]
)
def test_disks_that_fail(tmp_path, fault):
    done = traced(tmp_path / "state", "-o", os.devnull, "-e", f"inject={fault}")
    assert done.returncode == 75, done.stderr
    assert "ledger.sqlite: cannot be read or written" in done.stderr
    assert "nothing is started that could not be noted" in done.stderr
    rows, _ = rows_in(tmp_path / "state")
    assert len(rows) >= len(done.stdout.split())


def test_a_tick_has_one_row(tmp_path):
    ledger = Ledger(tmp_path)
    for reason in ("first", "second"):
        with ledger.changes():
            ledger.write([Tick("nightly", FIRST, "waiting", reason, FIRST)])
    [found] = ledger.latest()
    assert found.reason == "second"


def test_what_fails_inside_changes_nothing(tmp_path):
    ledger = Ledger(tmp_path)

    def fail() -> None:
        with ledger.changes():
            ledger.write([row(0)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ledger.latest() == []


def test_many_rows(tmp_path):
    """The oldest go, those that are not over stay, and the questions of every look do not read the others."""
    ledger = Ledger(tmp_path)
    rows = [Tick("nightly", FIRST + timedelta(minutes=n), "ran", "", FIRST, 1) for n in range(1010)]
    rows[3] = Tick("nightly", rows[3].time, "waiting", "", FIRST)
    with ledger.changes():
        ledger.write(rows)
        ledger.write([Tick("other", FIRST, "ran", "", FIRST)])
    with ledger.changes():
        ledger.drop_old("nightly", 1000)
    assert len(ledger.latest("nightly", 10**6)) == 1000 + 1
    assert ledger.open_ticks() == [rows[3]]
    assert ledger.latest("nightly", 10**6)[-2].time == rows[10].time
    assert len(ledger.latest("other")) == 1
    assert ledger.last_started("nightly") == rows[-1]
    plans = [
        ledger._base.execute(f"EXPLAIN QUERY PLAN SELECT * FROM ticks WHERE {where}").fetchall()
        for where in (
            "state IN ('waiting', 'running', 'interrupted') ORDER BY time, schedule",
            "schedule = 'nightly' AND time BETWEEN '2026' AND '2027'",
        )
    ]
    assert "open_ticks" in plans[0][0][3]
    assert "SEARCH" in plans[1][0][3]


def test_what_is_no_ledger_and_what_is_newer(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="is damaged, or no ledger"):
        Ledger(tmp_path)
    (tmp_path / "ledger.sqlite").unlink()
    ledger = Ledger(tmp_path)
    ledger._base.execute("PRAGMA user_version = 2")
    ledger.close()
    with pytest.raises(UserError, match="is of a later version of wanbatch: use that one"):
        Ledger(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineryError, match="choose another folder with --state"):
        Ledger(tmp_path / "file" / "state")


def test_looking_writes_nothing(tmp_path):
    ledger = Ledger(tmp_path / "state", read_only=True)
    assert (ledger.latest(), ledger.open_ticks(), ledger.seen("nightly")) == ([], [], None)
    assert not (tmp_path / "state").exists()
