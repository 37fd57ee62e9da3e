"""The real command, killed: at every operation on its folder, and while what it left behind still writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fault_making import require_whole
from job_making import commits, environment, family, wait_until, workers_of, write_jsonl

SUPPORT = Path(__file__).parents[1] / "support"
ROWS = [{"id": name, "prompt": "x"} for name in ("a", "b", "c", "d")] + [{"id": "bad", "image": "nowhere.png"}]
MADE = {"a", "b", "c", "d"}


def finish(start_command, shared_ray, rows) -> str:
    """Run the command to its end; what it says."""
    process = start_command(rows, WANBATCH_TEST_RAY=shared_ray)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (3 if any("image" in row for row in rows) else 0), err
    return out


def require_readable(out) -> None:
    """Each part in place can be read, whatever is committed."""
    for path in out.glob("*/part-*.parquet"):
        pq.read_table(path)


@pytest.mark.parametrize("step", [60, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_before_every_so_many_file_operations(start_command, shared_ray, tmp_path, step):
    """Fault 1, for the whole command; `manifests/dataset/test_kills.py` does it at every single operation."""
    out, at, killed = tmp_path / "out", step, 0
    while True:
        process = start_command(ROWS, WANBATCH_TEST_RAY=shared_ray, WANBATCH_TEST_KILL_AT=str(at))
        _, err = process.communicate(timeout=120)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 3, err
            break
        require_readable(out)
        killed += 1
        at += step - 2  # what an earlier one has done is not done again, so this gets further each time
    assert killed >= 1
    require_whole(out, MADE, {"bad"})


def test_an_orphan_that_writes_while_the_rerun_goes_on(start_command, shared_ray, tmp_path):
    """Fault 3. The orphan is a copy of a worker in mid-unit that outlives its driver, by other pixels.

    It writes the very attempt that it was given, after the rerun has taken the folder and before that has made
    the same unit.
    """
    go, done, out = tmp_path / "go", tmp_path / "done", tmp_path / "out"
    rows = [
        {"id": "a", "prompt": "x"},
        {"id": "orphan-b", "prompt": str(tmp_path)},
        {"id": "wait-c", "prompt": str(done)},
    ]
    first = start_command(rows, WANBATCH_TEST_RAY=shared_ray, pipeline="load_orphaning")
    wait_until((tmp_path / "forked").exists, what="the orphan")
    orphan = int((tmp_path / "forked").read_text())
    first.kill()
    first.communicate(timeout=30)
    second = start_command(rows, WANBATCH_TEST_RAY=shared_ray, pipeline="load_orphaning")
    wait_until(lambda: _holder(out) == second.pid, what="the second run to take the folder")
    wait_until(lambda: workers_of(os.getpid()), what="its worker")
    os.kill(orphan, 0)
    go.touch()
    wait_until(done.exists, what="the orphan's attempt")
    left = [path for path in (out / "_wanbatch" / "tmp").iterdir() if path.name in done.read_text()]
    assert left, "the orphan has written, and nobody has taken it"
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    require_whole(out, {"a", "orphan-b", "wait-c"})
    assert all(path.exists() for path in left)
    finish(start_command, shared_ray, rows)
    assert not any(path.exists() for path in left)
    require_whole(out, {"a", "orphan-b", "wait-c"})


def _holder(out) -> int | None:
    try:
        return json.loads((out / "_wanbatch" / "lock.json").read_text())["pid"]
    except (OSError, ValueError):
        return None


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["fsync:signal=KILL:when=1", "fsync:signal=KILL:when=3", "link,linkat:signal=KILL:when=2"]
)
def test_killed_inside_a_system_call(start_command, shared_ray, strace, tmp_path, fault):
    """Fault 1, from outside: strace kills the driver as it enters the call."""
    rows = [{"id": "a", "prompt": "x"}, {"id": "wait-b", "prompt": str(tmp_path / "go")}, {"id": "c", "prompt": "z"}]
    process = start_command(rows, WANBATCH_TEST_RAY=shared_ray)
    wait_until(lambda: commits(tmp_path / "out"), what="the first commit")
    strace(process.pid, fault)
    (tmp_path / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    require_readable(tmp_path / "out")
    finish(start_command, shared_ray, rows)
    require_whole(tmp_path / "out", {"a", "wait-b", "c"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_ray_that_is_killed_under_the_driver(start_command, tmp_path, name):
    """No hang: the command ends within a minute or two, and the next one goes on."""
    rows = [{"id": "a", "prompt": "x"}, {"id": "wait-b", "prompt": str(tmp_path / "go")}]
    process = start_command(rows)
    wait_until(lambda: commits(tmp_path / "out"), what="the first commit")
    [daemon] = [one for one in family(process.pid) if one.name() == name]
    daemon.kill()
    out, err = process.communicate(timeout=180)
    assert process.returncode == 75, (process.returncode, out, err)
    assert len(err.splitlines()) < 20
    (tmp_path / "go").touch()
    require_readable(tmp_path / "out")
    again = start_command(rows)
    again.communicate(timeout=120)
    assert again.returncode == 0
    require_whole(tmp_path / "out", {"a", "wait-b"})


def test_a_ray_that_does_not_start(start_command, tmp_path):
    """For a setting of its own that it refuses. The message goes on to what looks at the machine."""
    process = start_command([{"id": "a", "prompt": "x"}], RAY_OVERRIDE_RESOURCES='{"CPU": -1}')
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    [told] = [line for line in err.splitlines() if line.startswith("wanbatch: Ray did not start")]
    assert "Resource quantities must be nonnegative" in told
    assert "`wanbatch doctor`" in told
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_run_outside_the_main_thread(tmp_path):
    """With a Ray of its own, as in a notebook or a server: no signal handlers there, but an event stops it."""
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": f"slow-{index}", "prompt": "x"} for index in range(8)])
    command = [sys.executable, SUPPORT / "threaded_run.py", manifest, tmp_path / "out"]
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["codes"], found["handlers_kept"]) == ([130, 0], True)
    first, second = found["made"]
    assert 2 <= first < second == 8
    require_whole(tmp_path / "out", {f"slow-{index}" for index in range(8)})
