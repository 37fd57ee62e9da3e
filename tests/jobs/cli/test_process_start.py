"""Commands in processes with closed standard streams, or without a current folder."""

from __future__ import annotations

import subprocess
import sys

import pytest
from job_making import environment, write_jsonl

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
