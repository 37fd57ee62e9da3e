"""Nodes that are lost, and Ray's own troubles: its object store or its disk is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_making import require_whole
from job_making import commits, environment, log_events, rows_by_id, table, wait_until, write_jsonl
from ray_nodes import RayNodes, ray_nodes

SUPPORT = Path(__file__).parents[1] / "support"


def python(script: str, *arguments: object, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run one of the scripts here, with the helpers of the tests of jobs."""
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, SUPPORT / script, *map(str, arguments)]
    return subprocess.run(command, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=timeout)


def printed(done: subprocess.CompletedProcess) -> dict:
    """The one JSON object among what Ray says."""
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"code"')]
    return json.loads(line)


@pytest.fixture
def command_on(start_command) -> Callable[..., subprocess.Popen]:
    """Starts the command on a cluster, in a session of its own."""

    def start(nodes: RayNodes, rows: list[dict], *options: object) -> subprocess.Popen:
        return start_command(rows, "--address", nodes.address, "--threads", 1, *options, **nodes.variables)

    return start


def ready(out: Path) -> int:
    """How many workers became ready, in all runs of the folder."""
    return len(log_events(out, "worker_ready")) if (out / "_wanbatch" / "log.jsonl").exists() else 0


def ended(process: subprocess.Popen) -> str:
    """What a command that ends well prints to its error stream."""
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return err


def test_nodes_that_leave_and_join_and_a_driver_that_is_killed(command_on, tmp_path):
    """Fault 12, on a real cluster with tokens: rows wait for files, so that it is certain who has what when."""
    names = [f"wait-{index}" for index in range(8)]
    files = {name: tmp_path / name for name in names}
    rows = [{"id": name, "prompt": str(files[name])} for name in names]
    out = tmp_path / "out"
    with ray_nodes(tmp_path) as nodes:
        nodes.add("first")
        files["wait-0"].touch()
        driver = command_on(nodes, rows)
        wait_until(lambda: commits(out), what="the first commit")
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(20)

        again, before = command_on(nodes, rows), ready(out)
        nodes.add("second")  # joins while the run goes on
        wait_until(lambda: ready(out) == before + 2, what="a worker on both nodes")
        nodes.kill("second")
        wait_until(lambda: log_events(out, "node_lost"), what="the node's loss")
        nodes.add("third")
        wait_until(lambda: ready(out) == before + 3, what="a worker on the third node")
        for path in files.values():
            path.touch()
        told = ended(again)
    require_whole(out, set(names))
    lost = log_events(out, "unit_lost")
    assert lost
    assert all(event["with_node"] for event in lost), "no row is charged with it"
    assert {row["attempt"] for row in rows_by_id(out, "timings").values()} == {1}
    counts = [(event["wanted"], event["placed"]) for event in log_events(out, "workers")]
    assert (2, 2) in counts
    assert (2, 1) in counts, "the lost node"
    assert "wanted 1 worker, have 0, waiting for 1 more" in told


@pytest.mark.slow
@pytest.mark.parametrize(("characters", "code"), [(4_000_000, 75), (10, 0)])
def test_an_object_store_and_its_disk_that_are_full(small_disk, tmp_path, characters, code):
    """Fault 11, and `OutOfDiskError`: tasks of some size pass through the store; small ones do without."""
    names = [f"r{index}" for index in range(12)]
    rows = [{"id": name, "prompt": "x", "note": "n" * characters} for name in names]
    manifest, out = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out"
    disk = tempfile.mkdtemp(dir="/tmp")  # Ray's sockets there may not have long names
    try:
        done = python("store_run.py", manifest, out, small_disk(disk, "-o", "size=120m"), timeout=120)  # no hang
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True)
        os.rmdir(disk)
    assert done.returncode == 0, done.stderr[-3000:]
    found = printed(done)
    assert found["filled"][0] > 50
    assert found["code"] == code
    if code == 75:
        assert found["message"] == "Ray failed: Local disk is full; run the same command again"
        made = set(table(out, "data")["id"].to_pylist())
        assert 0 < len(made) < 12
        require_whole(out, made)
    else:
        require_whole(out, set(names))
