"""What is shown while parts of an output folder are written again."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sys
import termios

import pytest

from wanbatch.jobs.reporting.parts_progress import PartsProgress
from wanbatch.jobs.reporting.progress import HEARTBEAT_SECONDS, progress_for


def test_lines_tell_of_what_takes_long_and_of_nothing_else():
    stream, now = io.StringIO(), [0.0]
    with PartsProgress("rows taken out of", stream, lambda: now[0]) as told:
        for number in range(1, 6):
            now[0] += HEARTBEAT_SECONDS * 0.6
            told(number, 5)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["written"] for line in lines] == [2, 4]
    assert lines[0] == {"event": "parts", "what": "rows taken out of", "written": 2, "parts": 5}


def test_nobody_needs_to_read_them():
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    now = [0.0]
    with PartsProgress("x", Closed(), lambda: now[0]) as told:
        now[0] = HEARTBEAT_SECONDS
        told(1, 2)


def all_of(terminal: int) -> str:
    """What was written to a terminal whose other end is closed by now; a read may give a part of it."""
    shown = b""
    try:
        while data := os.read(terminal, 65536):
            shown += data
    except OSError:  # that was all
        pass
    os.close(terminal)
    return shown.decode()


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr("wanbatch.jobs.reporting.parts_progress.QUIET_SECONDS", 0)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream, PartsProgress("columns changed in", stream) as told:
        told(1, 2)
        told(2, 2)
        told(1, 3)  # parts of other columns are begun
        told(3, 3)
    shown = all_of(ours)
    assert "columns changed in" in shown
    assert "/2 parts" in shown
    assert "/3 parts" in shown


@pytest.mark.parametrize("parts", [False, True])
def test_a_terminal_that_does_not_say_its_size_has_a_bar(parts, monkeypatch):
    """As a serial line and `script` in a pipe; tqdm shows none on the standard error of a terminal of no lines."""
    monkeypatch.setattr("wanbatch.jobs.reporting.parts_progress.QUIET_SECONDS", 0)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        if parts:
            with PartsProgress("columns changed in") as told:
                told(1, 5)
        else:
            bar = progress_for(5, 0, terminal)
            bar.update(1, 0)
            bar.close()
    shown = all_of(master)
    assert re.search(r"\| 1/5 (pictures|parts)", shown), shown
