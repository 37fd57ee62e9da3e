"""One system call after another fails, reading ones as well as writing ones: what is committed stays, byte for byte.

Without a distinction between a file that is absent and one that cannot be looked at, a `stat` that fails with ESTALE
empties the folder of commits in the eyes of the recovery, which then takes every part for a leftover.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from failing_calls import KINDS, compiled

SUPPORT = Path(__file__).parents[2] / "support"
FINAL = {  # work -> made, failed
    "fill": ("abc", "de"),
    "go_on": ("abcdf", "e"),
    "mend": ("abc", "de"),
}
MACHINERY = 75
USUAL = [
    ("open", "ESTALE", 120),
    ("stat", "ESTALE", 120),
    ("stat", "ENOENT", 120),
    ("read", "EIO", 120),
    ("list", "EIO", 120),
    ("list", "ENOENT", 120),
    ("rename", "EACCES", 12),
    ("link", "EIO", 14),
    ("unlink", "EACCES", 30),
    ("fsync", "EIO", 45),
    ("write", "EIO", 35),
]
EVERY = [
    pytest.param(kind, code, 1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
    for kind in KINDS
    for code in ("ESTALE", "EIO", "EACCES", "ENOENT")
]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return compiled(tmp_path_factory.mktemp("library"))


def committed_parts(records: list[dict]) -> dict[str, str]:
    """Name -> SHA-256 of the parts that there must be after these commits, and no others."""
    parts: dict[str, str] = {}
    for record in sorted(records, key=lambda record: record["seq"]):
        parts |= {part["name"]: part["sha256"] for part in record["parts"].values()}
        for new in record.get("replaced", ()):
            parts.pop(new["name"])
            if new["sha256"] is not None:
                parts[new["name"]] = new["sha256"]
        for name in record.get("withdrawn", ()):
            parts.pop(name)
    return parts


def require_nothing_lost(run: dict) -> None:
    """All that was committed before the fault is there, as it was committed; the work can be finished."""
    found, final = run["found"], run["final"]
    assert all(record in found["records"] for record in run["records"])
    assert found["parts"] == committed_parts(found["records"])
    made, failed = FINAL[run["work"]]
    assert (final["made"], final["failed"]) == (list(made), list(failed))
    assert final["data_ids"] == final["timings_ids"] == list(made)
    assert final["failures_ids"] == list(failed)
    assert not [name for name in final["files"] if name.startswith("_wanbatch/tmp/")]


def require_told(run: dict, out: Path, code: str) -> None:
    """A work that failed says in which folder, at which file, and that it may be tried again."""
    message, victim = run["message"], run["victim"].removesuffix(" (deleted)")
    assert str(out) in message
    if code != "ENOENT":  # which is an answer: the file is absent
        assert victim in message, f"{message!r} does not name {victim}"
    if code in ("EIO", "ESTALE"):
        assert run["code"] == MACHINERY


def failing(folder: Path, library: Path, *cases: str, deadline: int) -> list[dict]:
    """What failing_run.py tells of these cases."""
    command = [sys.executable, SUPPORT / "failing_run.py", folder, *cases]
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def usual(tmp_path_factory, library) -> tuple[Path, list[dict]]:
    """A folder, and what became of the usual cases in it: all of one process."""
    folder = tmp_path_factory.mktemp("usual")
    return folder, failing(folder, library, *(":".join(map(str, case)) for case in USUAL), deadline=800)


@pytest.mark.parametrize(("kind", "code", "step"), USUAL)
def test_some_calls_fail_once(usual, kind, code, step):
    folder, runs = usual
    require_all_well(folder, [run for run in runs if run["case"] == f"{kind}:{code}:{step}"], code)


@pytest.mark.parametrize(("kind", "code", "step"), EVERY)
def test_each_call_fails_once(tmp_path, library, kind, code, step):
    runs = failing(tmp_path, library, f"{kind}:{code}:{step}", deadline=3500)  # minutes, on a busy machine many
    require_all_well(tmp_path, runs, code)


def require_all_well(folder: Path, runs: list[dict], code: str) -> None:
    """Of the runs of one case."""
    tried = Counter(run["work"] for run in runs)
    assert tried.keys() == FINAL.keys()
    for run in runs:
        require_nothing_lost(run)
        if run["code"]:
            require_told(run, folder, code)
    failed = [run for run in runs if run["victim"]]
    assert len(failed) >= 3, "faults hit"
