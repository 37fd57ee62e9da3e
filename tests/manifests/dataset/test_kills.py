"""Processes killed at every file operation, and disks that fail: what is committed stays whole, the rest goes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import killed_run
import pyarrow.parquet as pq
import pytest
from killed_run import STATES

SUPPORT = Path(__file__).parents[2] / "support"
RUN = {"_wanbatch/run.json"}
REPLACED = "_wanbatch/tmp/00004-first-replaced-{}.parquet"  # 0: what replaces a part of `data`, 2: of `timings`

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_every_file_operation(tmp_path, step):
    command = [sys.executable, SUPPORT / "killed_run.py", tmp_path, str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    clean, *runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) * step > 60
    assert {tuple(run["found"]["units"]) for run in runs} == {tuple(range(count)) for count in range(6)}
    for run in runs:
        found = run["found"]
        made, failed, data_parts, failure_parts = STATES[len(found["units"])]
        assert (found["made"], found["failed"]) == (list(made), list(failed))
        expected = {f"_wanbatch/commits/{unit:05d}.json" for unit in found["units"]} | RUN
        expected |= {f"{kind}/part-{unit:05d}.parquet" for kind in ("data", "timings") for unit in data_parts}
        expected |= {f"failures/part-{unit:05d}.parquet" for unit in failure_parts}
        assert set(found["files"]) == expected, f"killed before operation {run['at']}"
        assert found["data_ids"] == found["timings_ids"] == list(made)
        assert found["failures_ids"] == list(failed)
        assert found["digests"].get("a") == (None if not made else "a4" if made == "abc" else "a0")
        torn = run["torn"]["data_ids"] + run["torn"]["failures_ids"]
        assert set(torn) >= set(made + failed), "what is committed can be seen at any moment"
        assert run["final"] == clean["final"]
        assert run["counts"] == {"done": 3, "quarantined": 2, "pending": 0}


WORK = (
    "import sys\n"
    "from pathlib import Path\n"
    "import killed_run\n"
    "from wanbatch.errors import WanbatchError\n"
    "try:\n    killed_run.work(Path(sys.argv[1]), sys.argv[2])\n"
    "except WanbatchError as error:\n    print(error)\n    sys.exit(error.exit_code)\n"
)


def run_under(fault: str, out: Path, token: str, of: str | None = None) -> subprocess.CompletedProcess:
    """fault: which of some system calls of a thread, from 1, is killed or fails; of: the file that they are of."""
    tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}"]
    tracer += ["-P", str(out / of)] if of else []
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*tracer, sys.executable, "-c", WORK, str(out), token]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)


@strace
@pytest.mark.parametrize(
    ("fault", "of"),
    [
        ("fsync:signal=KILL:when=8", None),
        ("fsync:error=EIO:when=7", None),
        ("fsync:error=EIO:when=12", None),
        ("link,linkat:error=ENOSPC:when=2", None),
        ("rename:signal=KILL:when=1", REPLACED.format(0)),
        ("rename:error=EIO:when=1", REPLACED.format(0)),
        ("rename:error=EIO:when=1", REPLACED.format(2)),
    ],
)
def test_syscalls_that_kill_or_fail(tmp_path, fault, of):
    out = tmp_path / "out"
    first = run_under(fault, out, "first", of)
    if "KILL" in fault:
        assert first.returncode in (-9, 137)
    else:
        assert first.returncode == 75, first.stderr
        assert "cannot be written to" in first.stdout
    for name in (out / "data").glob("part-*.parquet"):
        pq.read_table(name)
    killed_run.work(out, "second")
    assert sorted(pq.read_table(out / "data")["id"].to_pylist()) == ["a", "b", "c"]
    assert sorted(pq.read_table(out / "failures")["id"].to_pylist()) == ["d", "e"]
