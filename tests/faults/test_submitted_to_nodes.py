"""A job on a real cluster of nodes with tokens that are lost and added, whose driver is killed once; also on a store.

The command runs in an environment with nothing set but the cluster's address and token. The cluster's own `wanbatch`
cannot be imported, so that what runs there is what was sent. The model is the small one.

Workers are stopped (SIGSTOP) as soon as they hold units, until others do, so that it is certain who holds units when,
however slow the machine is. Most of the time is that of processes that start: nodes, and workers that load the model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import torch
from data_row_requests import data_row_request
from job_making import commit_records, commits, decoded, log_events, picture, rows_by_id, wait_until, write_jsonl
from ray_cluster import cluster_environment
from ray_nodes import RayNodes, ray_nodes
from s3_server import ENVIRONMENT, empty_bucket, running

from wanbatch.manifests.storage import fsspec_io
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, find

COUNT = 8
FLAGS = ("--steps", 30, "--width", 32, "--height", 32, "--unit-rows", 1, "--slots", 1, "--threads", 1)
FLAGS += ("--unit-timeout", 900)  # workers are stopped for a while
DRIVER = "wanbatch.jobs.cluster.job_entrypoint"
WORKER, AT_WORK = "ray::Worker", "ray::Worker.exchange"
PATIENCE = 600  # seconds that a process may take on a busy machine

pytestmark = pytest.mark.timeout(2400)


def write_inputs(folder: Path) -> Path:
    """A manifest, with a source beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    picture(folder / "cup.png", 64, 64, seed=3)
    rows = [{"id": f"r{n:02}", "prompt": "a red cup", "seed": n} for n in range(COUNT)]
    rows[::3] = [{**row, "image": "cup.png", "creativity": 0.7} for row in rows[::3]]
    return write_jsonl(folder / "m.jsonl", rows)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> Path:
    """A folder that is empty for the nodes, as on another host."""
    return tmp_path_factory.mktemp("laptop")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, laptop) -> Iterator[RayNodes]:
    """The head of a cluster with tokens; a test leaves nodes that the next one may use."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "broken/wanbatch").mkdir(parents=True)
    (folder / "broken/wanbatch/__init__.py").write_text("raise ImportError('this is not what was sent')\n")
    theirs = {"PYTHONPATH": str(folder / "broken"), "WANBATCH_STEPS": "999"}
    with ray_nodes(folder, dashboard=True, hidden=laptop, **theirs) as cluster:
        yield cluster


def wanbatch(nodes: RayNodes, folder: Path, *words: object) -> subprocess.Popen:
    """Start the command as on a laptop with a home of its own."""
    home = folder / "home-of-the-laptop"
    home.mkdir(exist_ok=True)
    stores = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    given = cluster_environment(home, nodes.token) | stores | {"RAY_API_SERVER_ADDRESS": nodes.dashboard}
    given["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    line = [sys.executable, "-m", "wanbatch.jobs.cli", *words]
    return subprocess.Popen(
        list(map(str, line)), env=given, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def submitted(nodes: RayNodes, folder: Path, *words: object) -> subprocess.Popen:
    """Start `wanbatch submit`."""
    return wanbatch(nodes, folder, "submit", *words, *FLAGS)


def wait_for(command: subprocess.Popen, holds: Callable[[], Any], what: str) -> Any:
    """Wait until something holds, and return it; a command that ends before says why."""
    ended = object()
    found = wait_until(lambda: holds() or (ended if command.poll() is not None else None), PATIENCE, what)
    if found is ended:
        raise AssertionError(f"{what}: {command.communicate()[1]}")
    return found


def hold(command: subprocess.Popen, nodes: RayNodes, *names: str) -> list[psutil.Process]:
    """Stop the worker on each of these nodes as soon as it holds units."""
    there: dict[str, psutil.Process] = {}
    held: set[str] = set()

    def all_held() -> bool:
        for name in names:
            if name not in there:
                there.update((name, process) for process in nodes.processes(name, WORKER))
                time.sleep(0.1)  # looking for processes takes the processor that they need to start
            elif name not in held and AT_WORK in " ".join(there[name].cmdline()):
                there[name].suspend()
                held.add(name)
        return len(held) == len(names)

    wait_for(command, all_held, f"work on {names}")
    return [there[name] for name in names]


def disturbed(nodes: RayNodes, hidden: Path, start: Callable[..., subprocess.Popen], made: Callable[[], int]) -> None:
    """Start a job on two nodes, lose the second, with a third in its place, then the driver and the first node.

    Args:
        nodes: the cluster; only the last node is left of it.
        hidden: a folder that is empty for the nodes.
        start: starts the command, with more words; it must end with the code of a failed machinery.
        made: how many commits there are; the driver is killed once there is one of the third node.
    """
    first, second = nodes.grow(2, hidden)
    command = start()
    early, _ = hold(command, nodes, first, second)
    early.resume()
    wait_for(command, made, "a commit")
    early.suspend()
    nodes.kill(second)
    _, last = nodes.grow(2, hidden)
    before = made()
    wait_for(command, lambda: made() > before, "a commit of the third node")
    [driver] = [process for process in nodes.processes("head", DRIVER) if "sh" not in process.name()]
    driver.kill()
    assert made() < COUNT, "it was killed in the middle: the first node held a row"
    nodes.kill(first)
    _, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == 75, told
    assert nodes.names == [last]


def finished(command: subprocess.Popen) -> str:
    """What a command prints to both streams that ends well."""
    out, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, told
    return out + told


def require_once(out: Path, sources: Path) -> None:
    """Every row was committed once, with the pixels that the pipeline makes of it alone."""
    records = commit_records(out)
    assert sorted(name for record in records for name in record["ids"]) == [f"r{n:02}" for n in range(COUNT)]
    assert not any(record["failed"] for record in records)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the job: how many there are decides bits
    try:
        wan = Wan.load(find(TINY), slots=1)
        for name, row in rows_by_id(out).items():
            [result] = wan.generate([data_row_request(row, sources)])
            assert np.array_equal(result.pixels, decoded(row)), name
    finally:
        torch.set_num_threads(threads)


def test_a_cluster_without_a_place_for_a_worker(nodes, start_command, tmp_path):
    """Its head has no processor for workers. Before anything is written."""
    for name in nodes.names:
        nodes.kill(name)
    words = ("--address", nodes.address, "--start-deadline", 3)
    command = start_command([{"id": "a", "prompt": "x"}], *words, **nodes.variables)
    _, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == 75, told
    assert told.splitlines()[-1].startswith(
        "wanbatch: no worker found a place within 3 s: 1 wanted, each with 1 CPU; the cluster has 1 node with 0 GPUs"
    )
    assert not (tmp_path / "out").exists()


def test_every_row_once_and_pixels_as_in_a_quiet_run(nodes, laptop, tmp_path):
    """A second one is attached to while it goes on with what the first job left. The token is in nothing of it."""
    manifest, out = write_inputs(tmp_path), tmp_path / "out"

    def start(*more: str) -> subprocess.Popen:
        return submitted(nodes, tmp_path, manifest, "--out", out, *more)

    disturbed(nodes, laptop, start, lambda: len(commits(out)))
    job = finished(start("--detach")).splitlines()[0]
    assert f"job {job} is there already: attached to it" in finished(start())
    log = finished(wanbatch(nodes, tmp_path, "jobs", "logs", job))
    assert "WANBATCH_STEPS of this node is not used" in log
    assert f"{COUNT} of {COUNT} pictures made" in log
    assert log_events(out, "node_lost")
    assert all(event["with_node"] for event in log_events(out, "unit_lost")), "no row is charged with it"
    found = requests.get(
        f"{nodes.dashboard}/api/jobs/", headers={"authorization": f"Bearer {nodes.token}"}, timeout=60
    )
    assert job in found.text
    assert nodes.token not in found.text + log, "of the jobs"
    for place in (out, nodes.logs, tmp_path / "home-of-the-laptop"):
        assert subprocess.run(["grep", "-rlF", nodes.token, place], capture_output=True, text=True).stdout == ""
    require_once(out, tmp_path)


@pytest.fixture
def store(monkeypatch) -> Iterator[str]:
    """A bucket of a store that this process and the nodes reach."""
    with running() as server:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        fsspec_io.forget_file_systems()
        empty_bucket("shop")
        yield "s3://shop"
    fsspec_io.forget_file_systems()


@pytest.fixture
def on_a_store(nodes, laptop, store, tmp_path) -> Iterator[tuple[Callable[..., subprocess.Popen], Callable[[], int]]]:
    """Starts a run from a store to a store, and counts its commits; in the end every row must be there once.

    For the nodes the folder of the manifest is empty; `--upload` brings manifest and source to the store.
    """
    system, manifest = fsspec_io.file_system(store), write_inputs(laptop)
    words = [manifest, "--upload", f"{store}/inputs", "--out", f"{store}/out"]
    for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL"):
        words += ["--env", name]
    yield (
        lambda *more: submitted(nodes, tmp_path, *words, *more),
        lambda: time.sleep(0.2) or len(system.glob(f"{store}/out/_wanbatch/commits/*.json")),
    )
    system.get(f"{store}/out", str(tmp_path / "out"), recursive=True)
    require_once(tmp_path / "out", laptop)


def test_on_a_store_without_any_shared_folder(nodes, laptop, on_a_store):
    start, made = on_a_store
    disturbed(nodes, laptop, start, made)
    finished(start())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_head_that_is_started_anew(nodes, tmp_path):
    """It knows no job any more; the same command goes on with what is left."""
    manifest, out = write_inputs(tmp_path), tmp_path / "out"
    command = submitted(nodes, tmp_path, manifest, "--out", out)
    first = nodes.grow(1)[0]
    [worker] = hold(command, nodes, first)
    worker.resume()
    wait_for(command, lambda: commits(out), "a commit")
    worker.suspend()
    nodes.restart_head()
    _, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == 75, told
    assert "does not know job" in told
    assert "give the same command again" in told
    assert len(commits(out)) < COUNT, "it was killed in the middle"
    nodes.kill(first)
    command = submitted(nodes, tmp_path, manifest, "--out", out)
    nodes.grow(1)
    _, told = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, told
    require_once(out, tmp_path)
