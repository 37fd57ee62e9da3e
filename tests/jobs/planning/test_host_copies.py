"""Copies of models and adapters on a host: there whole or not at all, also after a power cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from failing_calls import compiled

SUPPORT = Path(__file__).parents[2] / "support"
COPYING = """
import errno, json, sys, tempfile
from pathlib import Path
from failing_calls import FailingCalls
from wanbatch.jobs.planning.host_copies import made_once

folder, nth = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(exist_ok=True)
tempfile.tempdir = str(folder)

def fill(begun):
    (begun / "vae").mkdir()
    for name in ("model_index.json", "vae/weights"):
        (begun / name).write_bytes(b"x" * 10_000)

calls = FailingCalls()
calls.arm(folder / "copies", "fsync", nth, errno.EIO)
try:
    made_once(folder / "copies/tiny", 20_000, fill, "free it")
    error = ""
except OSError as failed:
    error = failed.strerror
print(json.dumps({"error": error, "seen": calls.seen, "victim": calls.victim}))
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


def copied(folder: Path, library: Path, nth: int) -> dict:
    """Make a copy in another process; its Nth call of fsync fails, 0: none does."""
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": path}
    command = [sys.executable, "-c", COPYING, str(folder), str(nth)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_copy_has_its_name_only_when_it_is_on_the_disk(tmp_path):
    (tmp_path / "library").mkdir()
    library = compiled(tmp_path / "library")
    whole = copied(tmp_path / "whole", library, 0)
    assert whole["error"] == ""
    assert whole["seen"] == 5, "two files, the two folders that they are in, and that of all copies"
    for nth in range(1, 5):
        folder = tmp_path / str(nth)
        failed = copied(folder, library, nth)
        assert failed["error"] == "Input/output error"
        assert os.listdir(folder / "copies") == [], failed["victim"]
        assert copied(folder, library, 0)["error"] == ""
        assert (folder / "copies/tiny/vae/weights").stat().st_size == 10_000
