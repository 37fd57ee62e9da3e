"""A command of a tick that ends itself with 1 has a bug; one that is ended within is started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_making import environment

from wanbatch.jobs.schedule.own_end import VARIABLE, OwnEnd, say_own_end
from wanbatch.jobs.schedule.tick_process import Description, arguments

WANBATCH = f"""
import os, sys
import wanbatch.jobs.cli.main
from wanbatch.jobs.cli.start import main
def command(**options):
    print("begun", {VARIABLE!r} in os.environ, flush=True)
    {{ending}}
wanbatch.jobs.cli.main.main = command
main()
"""


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("raise ZeroDivisionError", 1, "ended with exit code 1"),
        ("sys.exit(1)", 1, "ended with exit code 1"),
        ("os._exit(1)", 75, "ended with exit code 1 in the middle, as Ray ends a process when a part of it is gone"),
        ("os._exit(6)", 6, "ended with exit code 6"),
        ("os.kill(os.getpid(), 9)", -9, "ended with exit code -9"),
    ],
)
def test_how_a_command_ended(tmp_path, ending, code, told):
    """The real first step of `wanbatch`, which does something else then."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    words = [sys.executable, "-c", WANBATCH.format(ending=ending)]
    log, result = tmp_path / "log", tmp_path / "result.json"
    description = Description([words], str(tmp_path), {}, str(log), str(result), lock, "title")
    subprocess.run(arguments(description), env=environment(), pass_fds=[lock], timeout=100)
    os.close(lock)
    lines = log.read_text().splitlines()
    assert "begun False" in lines, "its own children do not see the variable"
    found = json.loads(result.read_text())
    assert (found["exit_code"], found["stopped"]) == (code, False)
    assert any(line.endswith(told) for line in lines)


def test_a_process_that_outlives_the_command_does_not_hold_the_answer_up():
    with OwnEnd() as one:
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[one.number])
        assert not one.was_said()
        os.write(one.number, b".")
        assert one.was_said()
        left.communicate(b"\n", timeout=60)


@pytest.mark.parametrize("value", [None, "", "many", "-1", "99999999999999999999", "a file"])
def test_a_variable_that_names_no_pipe_is_passed_over(tmp_path, value):
    """It may have come from elsewhere: nothing is written into a file that happens to have the number."""
    path = Path(tmp_path / "file")
    with open(path, "wb") as file:
        given = {} if value is None else {VARIABLE: str(file.fileno()) if value == "a file" else value}
        code = "import os; from wanbatch.jobs.schedule.own_end import say_own_end; say_own_end(os.environ)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(**given), pass_fds=[file.fileno()], capture_output=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert path.read_bytes() == b""
    left = dict(given)
    say_own_end(left)
    assert left == {}
