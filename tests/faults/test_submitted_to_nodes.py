"""A job on a real cluster of nodes with tokens that are lost and added, whose driver is killed once; also on a store.

The command runs in an environment with nothing set but the cluster's address and token. The model is the small one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_making import command, commits, picture, rows_by_id, wait_until, write_jsonl
from ray_cluster import cluster_environment
from ray_nodes import RayNodes, ray_nodes
from s3_server import ENVIRONMENT, running

from wanbatch.manifests.storage import fsspec_io

COUNT = 40
FLAGS = ("--steps", 40, "--width", 32, "--height", 32, "--unit-rows", 1, "--slots", 1, "--threads", 1)
DRIVER = "wanbatch.jobs.cluster.job_entrypoint"


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """A manifest, with a source beside it."""
    folder = tmp_path_factory.mktemp("laptop")
    picture(folder / "cup.png", 64, 64, seed=3)
    rows = [{"id": f"r{n:02}", "prompt": "a red cup", "seed": n} for n in range(COUNT)]
    rows[::8] = [{**row, "image": "cup.png", "creativity": 0.7} for row in rows[::8]]
    return write_jsonl(folder / "m.jsonl", rows)


@pytest.fixture(scope="module")
def quiet(asked, tmp_path_factory) -> dict[str, str]:
    """The pixels of each row in a run on this machine that nothing disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    done = command("run", asked, "--out", folder / "out", *FLAGS, cwd=folder, timeout=600)
    assert done.code == 0, done.err
    return {name: row["sha256"] for name, row in rows_by_id(folder / "out").items()}


def submitted(nodes: RayNodes, folder: Path, *words: object) -> subprocess.Popen:
    """Start `wanbatch submit` as on a laptop with a home of its own."""
    home = folder / "home-of-the-laptop"
    home.mkdir(exist_ok=True)
    stores = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    given = cluster_environment(home, nodes.token) | stores | {"RAY_API_SERVER_ADDRESS": nodes.dashboard}
    given["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    line = [sys.executable, "-m", "wanbatch.jobs.cli", "submit", *words, *FLAGS]
    return subprocess.Popen(
        list(map(str, line)), env=given, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def disturbed(
    nodes: RayNodes, start: Callable[[], subprocess.Popen], made: Callable[[], int], hidden: Path | None = None
) -> None:
    """Kill the second node in the middle, then the driver; add another node, and give the same command again."""
    nodes.add("first", hidden)
    nodes.add("second", hidden)
    first = start()
    wait_for(first, lambda: made() >= 2, "two commits")
    nodes.kill("second")
    before = made()
    wait_for(first, lambda: made() > before, "a commit after the loss")
    (driver,) = [one for one in nodes.processes("head", DRIVER) if "sh" not in one.name()]
    driver.send_signal(signal.SIGKILL)
    _, told = first.communicate(timeout=600)
    assert first.returncode == 75, told
    assert made() < COUNT, "it was killed in the middle"
    nodes.add("third", hidden)
    again = start()
    _, told = again.communicate(timeout=600)
    assert again.returncode == 0, told


def wait_for(command: subprocess.Popen, holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; a command that ends before says why."""
    wait_until(lambda: holds() or command.poll() is not None, 600, what)
    if not holds():
        raise AssertionError(f"{what}: {command.communicate()[1]}")


def require_once(out: Path, quiet: dict[str, str]) -> None:
    """Every row was committed once, with the pixels of the quiet run."""
    records = [json.loads(line) for path in commits(out) for line in path.read_text().splitlines()]
    assert sorted(name for record in records for name in record["ids"]) == sorted(quiet)
    assert not any(record["failed"] for record in records)
    assert {name: row["sha256"] for name, row in rows_by_id(out).items()} == quiet


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_row_once_and_pixels_as_in_a_quiet_run(asked, quiet, tmp_path):
    out = tmp_path / "out"
    with ray_nodes(tmp_path, dashboard=True) as nodes:
        disturbed(nodes, lambda: submitted(nodes, tmp_path, asked, "--out", out), lambda: len(commits(out)))
        found = subprocess.run(["grep", "-rl", nodes.token, out], capture_output=True, text=True)
    assert found.stdout == "", "the token is in no file"
    require_once(out, quiet)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_head_that_is_started_anew(asked, quiet, tmp_path):
    """It knows no job any more; the same command goes on with what is left."""
    out = tmp_path / "out"
    with ray_nodes(tmp_path, dashboard=True) as nodes:
        nodes.add("first")
        first = submitted(nodes, tmp_path, asked, "--out", out)
        wait_for(first, lambda: len(commits(out)) >= 2, "two commits")
        nodes.restart_head()
        _, told = first.communicate(timeout=600)
        assert first.returncode == 75, told
        assert "does not know job" in told
        assert "give the same command again" in told
        assert len(commits(out)) < COUNT, "it was killed in the middle"
        nodes.kill("first")
        nodes.add("second")
        again = submitted(nodes, tmp_path, asked, "--out", out)
        _, told = again.communicate(timeout=600)
        assert again.returncode == 0, told
    require_once(out, quiet)


@pytest.fixture
def store(monkeypatch) -> Iterator[str]:
    """A bucket of a store that this process and the nodes reach."""
    with running() as server:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        fsspec_io.forget_file_systems()
        fsspec_io.file_system("s3://shop").mkdir("shop")
        yield "s3://shop"
    fsspec_io.forget_file_systems()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_same_on_a_store_without_any_shared_folder(asked, quiet, store, tmp_path):
    """For the nodes the folder of the manifest is empty; `--upload` brings manifest and source to the store."""
    system, hidden = fsspec_io.file_system(store), asked.parent
    words = (asked, "--upload", f"{store}/inputs", "--out", f"{store}/out")
    with ray_nodes(tmp_path, dashboard=True, hidden=hidden) as nodes:
        disturbed(
            nodes,
            lambda: submitted(nodes, tmp_path, *words),
            lambda: len(system.glob(f"{store}/out/_wanbatch/commits/*.json")),
            hidden,
        )
    system.get(f"{store}/out", str(tmp_path / "out"), recursive=True)
    require_once(tmp_path / "out", quiet)
