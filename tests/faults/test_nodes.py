"""Nodes that are lost, and Ray's own troubles: its object store or its disk is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fault_making import require_whole
from job_making import environment, log_events, table, write_jsonl

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


@pytest.mark.slow
def test_a_node_that_is_lost_and_another_that_joins(tmp_path):
    """Fault 12, by `ray.cluster_utils.Cluster`: the processes of a node are killed under its workers."""
    names = [f"slow-{index}" for index in range(24)]
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": name, "prompt": "x"} for name in names])
    done = python("cluster_run.py", manifest, tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    found = printed(done)
    assert (found["code"], found["made"]) == (0, 24)
    assert found["workers_killed"] >= 1
    assert len(log_events(tmp_path / "out", "unit_lost")) >= found["workers_killed"]
    require_whole(tmp_path / "out", set(names))


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
