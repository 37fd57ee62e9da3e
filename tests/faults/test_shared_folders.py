"""Hosts that do not see the output folder or the sources, and disks that damage what is written."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_pipelines
import pytest
from click.testing import CliRunner
from fault_making import require_whole
from job_making import commits, environment, log_events, picture, rows_by_id, wait_until

from wanbatch.errors import MachineryError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver import worker_pool, worker_slot
from wanbatch.manifests.dataset.visibility import take_mark

RAY = Path(sys.executable).parent / "ray"


@pytest.fixture
def ray_elsewhere(tmp_path) -> Iterator[Callable[[Path], str]]:
    """Starts a Ray whose processes have an empty folder in the place of one; gives its address.

    As on another host, by a mount that only they see.
    """
    started: list[subprocess.Popen] = []
    home = {"HOME": str(tmp_path)}  # without a token that an earlier Ray left in the user's

    def start(hidden: Path, *inside: str) -> str:
        hidden.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        make = " && ".join(f"mkdir -p '{hidden / name}'" for name in inside) or "true"
        ray = f"'{RAY}' start --head --block --port={port} --include-dashboard=false --num-cpus=1"
        ray += " --object-store-memory=100000000 --disable-usage-stats --node-ip-address=127.0.0.1"
        script = f"mount -t tmpfs tmpfs '{hidden}' && {make} && exec {ray}"
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        with (tmp_path / "ray.log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment() | home, start_new_session=True
            )
        started.append(process)
        wait_until(lambda: process.poll() is not None or "Ray runtime started" in _text(tmp_path), what="Ray")
        if process.poll() is not None:
            pytest.skip(f"no Ray with mounts of its own here: {_text(tmp_path)[-300:]}")
        return f"127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _text(folder: Path) -> str:
    return (folder / "ray.log").read_text()


ROWS = [{"id": name, "prompt": "x"} for name in "abcde"]


def test_a_driver_and_workers_that_see_different_folders(run_rows, tmp_path, monkeypatch):
    """The driver looks elsewhere for what its workers leave, as on a host that shares nothing with theirs."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    (elsewhere / "_wanbatch/tmp").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(worker_pool, "take_mark", lambda _, *mark, **options: take_mark(elsewhere, *mark, **options))
        patched.setattr(worker_slot, "PATIENCE_SECONDS", 0.0)
        with pytest.raises(MachineryError) as caught:
            run_rows(ROWS)
    for part in (socket.gethostname(), str(elsewhere), "is not seen by this process", "share the folder", "s3://"):
        assert part in str(caught.value)
    assert commits(out) == []
    assert log_events(out, "unit_lost") == []
    assert run_rows(ROWS).exit_code == 0
    require_whole(out, set("abcde"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ((), "cannot write to the output folder"),
        (("_wanbatch/tmp",), "is not seen by this process"),  # a folder of its own under the same name
    ],
)
def test_a_host_that_does_not_share_the_output_folder(
    start_command, shared_ray, ray_elsewhere, tmp_path, inside, told
):
    """Found when a worker starts. Before, five attempts nobody saw made each row's quarantine, as `worker_died`."""
    out = tmp_path / "out"
    address = ray_elsewhere(out, *inside)
    process = start_command(ROWS, WANBATCH_TEST_RAY=address, HOME=str(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    message = err.splitlines()[-1]
    for part in (socket.gethostname(), str(out), told, "share the folder", "s3://"):
        assert part in message
    assert commits(out) == []
    assert log_events(out, "unit_lost") == []
    again = start_command(ROWS, WANBATCH_TEST_RAY=shared_ray)
    again.communicate(timeout=120)
    assert again.returncode == 0
    require_whole(out, set("abcde"))


@pytest.mark.slow
def test_a_host_that_does_not_see_the_sources(start_command, ray_elsewhere, tmp_path):
    """Before, all rows were quarantined as `missing_image`, although the images are there."""
    (tmp_path / "sources").mkdir()
    picture(tmp_path / "sources" / "a.png", 32, 32)
    rows = [{"id": "a", "image": "sources/a.png"}, {"id": "b", "prompt": "x"}]
    address = ray_elsewhere(tmp_path / "sources")
    process = start_command(rows, WANBATCH_TEST_RAY=address, HOME=str(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    for part in (socket.gethostname(), str(tmp_path / "sources" / "a.png"), "share the folder of the sources"):
        assert part in err.splitlines()[-1]
    assert commits(tmp_path / "out") == []


@pytest.fixture
def marks(tmp_path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_an_attempt_that_is_damaged_is_made_again_and_blames_nobody(run_rows, tmp_path, marks):
    """Three times for the one row. Before, the fifth damaged attempt quarantined it as `worker_died`."""
    load = functools.partial(fake_pipelines.load_on_a_damaged_disk, marks, 3)
    assert run_rows([{"id": "a", "prompt": "x"}], load=load).exit_code == 0
    require_whole(tmp_path / "out", {"a"})
    assert [row["attempt"] for row in rows_by_id(tmp_path / "out", "timings").values()] == [4]
    assert len(log_events(tmp_path / "out", "attempt_damaged")) == 3
    assert log_events(tmp_path / "out", "unit_lost") == []


def test_a_disk_that_damages_everything_ends_the_run_and_blames_nobody(run_rows, tmp_path, marks):
    rows = ROWS[:3]  # so few that none is written so often in a row that the folder itself is given up
    load = functools.partial(fake_pipelines.load_on_a_damaged_disk, marks, 1000)
    with pytest.raises(MachineryError, match="written 4 times, and never read back whole") as caught:
        run_rows(rows, load=load)
    for part in (str(tmp_path / "out"), socket.gethostname(), "check the disk"):
        assert part in str(caught.value)
    assert commits(tmp_path / "out") == []
    [failed] = log_events(tmp_path / "out", "failed")
    assert (failed["cause"], failed["exit_code"]) == (str(caught.value), 75)
    told = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).stdout
    assert f"  state     no run; the last one failed: {failed['cause']}\n" in told
    assert run_rows(rows).exit_code == 0
    require_whole(tmp_path / "out", set("abc"))
    found = json.loads(CliRunner().invoke(main, ["status", str(tmp_path / "out"), "--json"]).stdout)
    assert (found["ended"], found["cause"]) == ("finished", None)
    assert json.loads((tmp_path / "out" / "_wanbatch" / "run.json").read_text())["plan"]["rows"] == 3


def test_of_an_error_of_ours_alone_the_log_has_the_text(run_rows, tmp_path):
    """A bug's text may hold anything, also what a row says."""

    def fail() -> None:
        raise ZeroDivisionError("a secret prompt")

    with pytest.raises(ZeroDivisionError):
        run_rows(ROWS, hook=fail)
    [failed] = log_events(tmp_path / "out", "failed")
    assert (failed["cause"], failed["exit_code"]) == ("ZeroDivisionError", 1)
    assert run_rows(ROWS).exit_code == 0
