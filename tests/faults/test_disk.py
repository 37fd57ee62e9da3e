"""Fault 10: disks that are full, too small, over their quota, or broken, under workers and under the driver.

Each ends the run with 75 and one clear message; what is committed can be read; the same command goes on.
"""

from __future__ import annotations

import os
import subprocess

import fake_pipelines
import pyarrow.parquet as pq
import pytest
from fault_making import require_whole
from job_making import commits, table, wait_until, workers_of

from wanbatch.errors import MachineryError

ROWS = [{"id": "a", "prompt": "x"}, {"id": "wait-b", "prompt": "go"}, {"id": "c", "prompt": "z"}]
MADE = {"a", "wait-b", "c"}


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    """Three rows; the second one waits until the test lets it go on."""
    return [{**row, "prompt": str(tmp_path / row["prompt"])} for row in ROWS]


def test_a_full_disk(run_rows, small_disk, tmp_path):
    """A real one: pictures are written until it is full, and it is made larger for the rerun."""
    out = small_disk("out", "-o", "size=600k")
    rows = [{"id": f"r{index}", "prompt": "x"} for index in range(12)]
    told = r"cannot be written to \(No space left on device\).*: make room there, and run the same command again"
    with pytest.raises(MachineryError, match=told):
        run_rows(rows, width=160, height=160)  # 77 kB of noise each
    done = table(out, "data")["id"].to_pylist()
    assert 0 < len(done) < 12
    subprocess.run(["mount", "-o", "remount,size=8m", out], check=True)
    assert run_rows(rows, width=160, height=160).exit_code == 0
    require_whole(out, {row["id"] for row in rows}, size=160)


def test_a_read_only_disk(run_rows, small_disk):
    """Nothing can be made there; what the message asks for helps."""
    out, rows = small_disk("out", "-o", "size=8m"), [{"id": "r0", "prompt": "x"}]
    subprocess.run(["mount", "-o", "remount,ro", out], check=True)
    with pytest.raises(MachineryError, match=r"\(Read-only file system\).*: have the disk mounted so that it can"):
        run_rows(rows)
    subprocess.run(["mount", "-o", "remount,rw", out], check=True)
    assert run_rows(rows).exit_code == 0


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_75(start_command, shared_ray, small_disk):
    small_disk("out", "-o", "size=200k")
    rows = [{"id": f"r{index}", "prompt": "x"} for index in range(12)]
    process = start_command(rows, "--width", 160, "--height", 160, WANBATCH_TEST_RAY=shared_ray)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    told = [line for line in err.splitlines() if line.startswith("wanbatch:")]
    assert len(told) == 1
    assert "cannot be written to (No space left on device)" in told[0]
    assert "Traceback" not in out + err


def test_a_file_that_grows_too_large(run_rows, tmp_path):
    """RLIMIT_FSIZE in the workers' processes."""
    with pytest.raises(MachineryError, match=r"cannot be written to \(File too large\)"):
        run_rows([{"id": "a", "prompt": "x"}], load=fake_pipelines.load_with_small_files)
    assert commits(tmp_path / "out") == []
    assert list((tmp_path / "out" / "_wanbatch" / "tmp").iterdir()) == []
    assert run_rows([{"id": "a", "prompt": "x"}]).exit_code == 0
    require_whole(tmp_path / "out", {"a"})


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("EDQUOT", "Disk quota exceeded"),
        pytest.param("EIO", "Input/output error", marks=pytest.mark.slow),
        pytest.param("ENOSPC", "No space left on device", marks=pytest.mark.slow),
    ],
)
def test_a_worker_whose_writing_fails(run_rows, rows, strace, tmp_path, code, told):
    """At fsync, where file systems report what they could not write."""
    out, traced = tmp_path / "out", []

    def hook() -> None:
        if commits(out) and not traced:
            [process] = workers_of(os.getpid())
            strace(process.pid, f"fsync:error={code}")
            traced.append(process)
            (tmp_path / "go").touch()

    with pytest.raises(MachineryError, match=rf"cannot be written to \({told}\)"):
        run_rows(rows, hook=hook)
    assert traced
    require_whole(out, {"a"})
    assert run_rows(rows).exit_code == 0
    require_whole(out, MADE)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("fsync:error=EIO:when=2", "Input/output error"),
        pytest.param("fsync:error=EIO:when=1", "Input/output error", marks=pytest.mark.slow),
        pytest.param("fsync:error=ENOSPC:when=3", "No space left on device", marks=pytest.mark.slow),
        pytest.param("link,linkat:error=EDQUOT:when=1", "Disk quota exceeded", marks=pytest.mark.slow),
        pytest.param("link,linkat:error=ENOSPC:when=3", "No space left on device", marks=pytest.mark.slow),
        pytest.param("unlink,unlinkat:error=EIO:when=1", "Input/output error", marks=pytest.mark.slow),
    ],
)
def test_a_driver_whose_publishing_fails(start_command, shared_ray, rows, strace, tmp_path, fault, told):
    """The parts of a unit are moved (link, unlink), their folders synced, and the commit written, synced, linked."""
    out = tmp_path / "out"
    process = start_command(rows, WANBATCH_TEST_RAY=shared_ray)
    wait_until(lambda: commits(out), what="the first commit")
    strace(process.pid, fault)
    (tmp_path / "go").touch()
    printed, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    [message] = [line for line in err.splitlines() if line.startswith("wanbatch:")]
    assert f"cannot be written to ({told})" in message
    assert "Traceback" not in printed + err
    for path in out.glob("*/part-*.parquet"):
        pq.read_table(path)
    again = start_command(rows, WANBATCH_TEST_RAY=shared_ray)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    require_whole(out, MADE)


def test_a_log_that_cannot_be_written(run_rows, rows, tmp_path):
    """The smallest of files is no reason for a traceback either."""

    def hook() -> None:
        log = tmp_path / "out" / "_wanbatch" / "log.jsonl"
        if commits(tmp_path / "out") and log.is_file():
            log.unlink()
            log.mkdir()
            (tmp_path / "go").touch()

    with pytest.raises(MachineryError, match=r"out: cannot be written to \(Is a directory\)"):
        run_rows(rows, hook=hook)
    (tmp_path / "out" / "_wanbatch" / "log.jsonl").rmdir()
    assert run_rows(rows).exit_code == 0
    require_whole(tmp_path / "out", MADE)
