"""Commands in processes whose standard streams are closed or take nothing, or without a current folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import invoke
from job_making import environment, rows_by_id, write_jsonl

NUMBERS = """
import os, sys
from wanbatch.jobs.cli.process_start import open_standard_streams
open_standard_streams()
print("this goes nowhere", file=sys.stderr)
with open("file", "w") as file:
    assert file.fileno() > 2, file.fileno()
os.write(2, b"nor does this go into the file")
"""


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-", ">&- 2>&-", "0<&- >&- 2>&-"])
def test_what_is_printed_to_a_closed_stream_goes_into_no_file(tmp_path, closed):
    shell = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(["bash", "-c", shell, sys.executable, NUMBERS], cwd=tmp_path, env=environment())
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


AS_COMMAND = """
import os, sys
from wanbatch.jobs.cli.main import main
try:
    main(["--version"])
finally:
    print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "10000 None False"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None False"),
        ({"OMP_WAIT_POLICY": "active"}, "None active False"),
    ],
)
def test_threads_of_the_command_itself_fall_asleep_soon_as_those_of_its_workers(given, found):
    """`bench`, `qualify`, `tune` and trainings use the model in their own process. It is set before torch looks."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    ours = {name: value for name, value in environment().items() if name not in names}
    command = [sys.executable, "-c", AS_COMMAND]
    done = subprocess.run(command, env=ours | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == found


def test_a_command_without_standard_error(tmp_path):
    write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a star"}, "{oops}"])
    shell = '"$0" -m wanbatch.jobs.cli plan m.jsonl 2>&-'
    done = subprocess.run(["bash", "-c", shell, sys.executable], cwd=tmp_path, env=environment(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_a_current_folder_that_was_removed(tmp_path):
    shell = 'mkdir gone && cd gone && rmdir ../gone && "$0" -m wanbatch.jobs.cli plan ../m.jsonl'
    write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a star"}])
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("wanbatch: the current folder cannot be used (No such file")
    assert "Traceback" not in done.stderr


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
COMMAND = [sys.executable, "-m", "wanbatch.jobs.cli"]
WITHOUT_MODEL = """
import functools, fake_pipelines
from wanbatch.jobs.cli.start import main
from wanbatch.jobs.driver import run
run.run = functools.partial(run.run, load=fake_pipelines.load)
main(prog_name="wanbatch")
"""


@FULL
def test_a_run_whose_output_nobody_reads_and_has_no_room(tmp_path):
    """As with `2>&1 | head`, or a log on a full disk: all rows are made, and the exit code says so."""
    write_jsonl(
        tmp_path / "m.jsonl", [{"id": name, "prompt": "a star", "width": 32, "height": 32} for name in ("one", "two")]
    )
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "w") as full, os.fdopen(writing, "w") as unread:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_MODEL, "run", "m.jsonl", "--out", "out"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=unread,
        )
    assert done.returncode == 0
    assert set(rows_by_id(tmp_path / "out")) == {"one", "two"}


@FULL
def test_an_error_that_nobody_reads_ends_with_its_own_code(tmp_path):
    write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a star"}, "{oops}"])
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "plan", "m.jsonl"], cwd=tmp_path, env=environment(), stderr=full)
    assert done.returncode == 2


@FULL
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_answer_for_which_there_is_no_room(tmp_path, flags):
    """One message; printed elsewhere, as it says, the answer is there."""
    write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a star"}] * 12)
    plan = [*COMMAND, "plan", "m.jsonl", *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(plan, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 75
    assert done.stderr == (
        "wanbatch: standard output cannot be written to (No space left on device): print it elsewhere\n"
    )
    printed = invoke("plan", "m.jsonl", *flags)
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["rows"] == 12 if flags else "12 rows" in printed.stdout
