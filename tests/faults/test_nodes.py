"""Nodes that are lost, and Ray's own troubles: its object store or its disk is full."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_making import require_whole
from job_making import commits, environment, log_events, rows_by_id, table, wait_until, write_jsonl
from ray_nodes import RayNodes, ray_nodes
from s3_server import ENVIRONMENT, empty_bucket, running

from wanbatch.manifests.storage import fsspec_io

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


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[RayNodes]:
    """A cluster with tokens; each test adds its nodes and takes them away."""
    with ray_nodes(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


@pytest.fixture
def command_on(start_command) -> Callable[..., subprocess.Popen]:
    """Starts the command on a cluster, in a session of its own. changes: of its environment."""

    def start(nodes: RayNodes, rows: list[dict], *options: object, **changes: str | None) -> subprocess.Popen:
        variables = {**nodes.variables, **changes}
        return start_command(rows, "--address", nodes.address, "--threads", 1, *options, **variables)

    return start


def ready(out: Path) -> int:
    """How many workers became ready, in all runs of the folder."""
    return len(log_events(out, "worker_ready")) if (out / "_wanbatch" / "log.jsonl").exists() else 0


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """What a command that ends prints to its error stream."""
    _, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return err


@pytest.mark.slow
def test_nodes_that_leave_and_join_and_a_driver_that_is_killed(nodes, command_on, tmp_path):
    """Fault 12, on a real cluster with tokens: rows wait for files, so that it is certain who has what when."""
    names = [f"wait-{index}" for index in range(8)]
    files = {name: tmp_path / name for name in names}
    rows = [{"id": name, "prompt": str(files[name])} for name in names]
    out = tmp_path / "out"
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
    nodes.kill("first")
    nodes.kill("third")
    require_whole(out, set(names))
    lost = log_events(out, "unit_lost")
    assert lost
    assert all(event["with_node"] for event in lost), "no row is charged with it"
    assert {row["attempt"] for row in rows_by_id(out, "timings").values()} == {1}
    counts = [(event["wanted"], event["placed"]) for event in log_events(out, "workers")]
    assert (2, 2) in counts
    assert re.search(r"wanted (1 worker|2 workers), have 0, waiting for [12] more", told)
    assert not [path for path in out.rglob("*") if path.is_file() and nodes.token.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_spot_node_that_is_drained_and_then_taken_away(nodes, command_on, tmp_path):
    """Ray places nothing more there and calls what dies there preempted; what its worker holds is made elsewhere."""
    names = [f"wait-{index}" for index in range(4)]
    rows = [{"id": name, "prompt": str(tmp_path / name)} for name in names]
    out = tmp_path / "out"
    nodes.add("spot")
    (tmp_path / "wait-0").touch()
    process = command_on(nodes, rows)
    wait_until(lambda: commits(out), what="the first commit")
    nodes.drain("spot", seconds=2)
    nodes.add("stays")
    wait_until(lambda: ready(out) == 2, what="a worker on the other node")
    nodes.kill("spot")
    wait_until(lambda: log_events(out, "node_lost"), what="the node's loss")
    for name in names:
        (tmp_path / name).touch()
    ended(process)
    nodes.kill("stays")
    require_whole(out, set(names))
    lost = log_events(out, "unit_lost")
    assert lost
    assert all(event["with_node"] for event in lost), "no row is charged with it"
    assert ready(out) == 2, "nothing was started on the node that goes"


@pytest.mark.slow
def test_the_command_on_a_machine_outside_the_cluster(nodes, command_on, tmp_path):
    """Through Ray's client; its process is killed, and the same command goes on."""
    pytest.importorskip("grpc")
    names = [f"wait-{index}" for index in range(4)]
    rows = [{"id": name, "prompt": str(tmp_path / name)} for name in names]
    nodes.add("only")
    (tmp_path / "wait-0").touch()
    driver = command_on(nodes, rows, "--address", nodes.client_address)
    wait_until(lambda: commits(tmp_path / "out"), what="the first commit")
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(20)
    for name in names:
        (tmp_path / name).touch()
    ended(command_on(nodes, rows, "--address", nodes.client_address))
    nodes.kill("only")
    require_whole(tmp_path / "out", set(names))


@pytest.mark.slow
def test_a_token_that_the_cluster_does_not_take(nodes, command_on, tmp_path):
    """Also a stale one in the home folder, and one that is not sent. None is shown, and the cluster's own works."""
    stale = tmp_path / "home" / ".ray" / "auth_token"
    stale.parent.mkdir(parents=True)
    stale.write_text("5" * 64)
    rows = [{"id": "a", "prompt": "x"}]
    home = {"HOME": str(tmp_path / "home"), "RAY_AUTH_TOKEN": None}
    ours = ", and that is not the cluster's own: put the cluster's own token there"
    for changes, sent, remedy in (
        ({"RAY_AUTH_TOKEN": "4" * 64}, "the token of RAY_AUTH_TOKEN", ours),
        (home, f"the token of the file {stale}", ours),
        ({**home, "RAY_AUTH_MODE": None}, "no token (RAY_AUTH_MODE is not set)", ": set RAY_AUTH_MODE=token"),
    ):
        told = ended(command_on(nodes, rows, **changes), code=2)
        assert len(told.splitlines()) == 1
        for part in ("does not take this process", f"{sent}{remedy}"):
            assert part in told
        assert "4444" not in told
        assert "5555" not in told
    nodes.add("only")
    stale.write_text(nodes.token)
    ended(command_on(nodes, rows, **home))
    nodes.kill("only")
    require_whole(tmp_path / "out", {"a"})


@pytest.mark.slow
def test_a_token_for_a_cluster_without_tokens(command_on, tmp_path):
    """A stale one of an earlier cluster does no harm if it is not sent; else the message says what to do."""
    stale = tmp_path / "home" / ".ray" / "auth_token"
    stale.parent.mkdir(parents=True)
    stale.write_text("5" * 64)
    rows = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}]
    with ray_nodes(tmp_path, token=False) as open_nodes:
        open_nodes.add("only")
        ended(command_on(open_nodes, rows[:1], RAY_AUTH_MODE=None))
        told = ended(command_on(open_nodes, rows, RAY_AUTH_MODE="token"), code=2)
        assert f"has no tokens, and this process, which sends the token of the file {stale}, asks for one" in told
        assert "set RAY_AUTH_MODE=disabled" in told
        ended(command_on(open_nodes, rows, RAY_AUTH_MODE="disabled"))
    require_whole(tmp_path / "out", {"a", "b"})


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_beside_one_that_does(nodes, command_on, tmp_path):
    """It gets no workers; the run goes on without it."""
    names = [f"slow-{index}" for index in range(10)]
    (tmp_path / "out").mkdir()
    nodes.add("blind", hidden=tmp_path / "out")
    nodes.add("seeing")
    told = ended(command_on(nodes, [{"id": name, "prompt": "x"} for name in names]))
    nodes.kill("blind")
    nodes.kill("seeing")
    require_whole(tmp_path / "out", set(names))
    [refused] = log_events(tmp_path / "out", "node_refused")
    for part in (socket.gethostname(), str(tmp_path / "out"), "share the folder"):
        assert part in refused["cause"]
        assert part in told
    assert log_events(tmp_path / "out", "unit_lost") == []


@pytest.mark.slow
def test_a_store_and_no_shared_folder(command_on, tmp_path, monkeypatch):
    """Each node has an empty folder in the place of the driver's; one is killed in the middle, another joins."""
    names = [f"slow-{index}" for index in range(16)]
    with running() as server:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        fsspec_io.forget_file_systems()
        system = fsspec_io.file_system("s3://shop")
        empty_bucket("shop")
        here = tmp_path / "here"
        here.mkdir()
        with ray_nodes(here) as far:
            far.add("first", hidden=tmp_path / "sources")
            far.add("second", hidden=tmp_path / "sources")
            rows = [{"id": name, "prompt": "x"} for name in names]
            process = command_on(far, rows, "--out", "s3://shop/out")
            wait_until(lambda: system.glob("s3://shop/out/_wanbatch/commits/*.json"), what="the first commit")
            far.kill("second")
            far.add("third", hidden=tmp_path / "sources")
            ended(process)
        system.get("s3://shop/out", str(tmp_path / "out"), recursive=True)
    fsspec_io.forget_file_systems()
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
