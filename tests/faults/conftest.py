"""Fixtures for the tests of faults: one Ray for all runs in this process, and the real command beside it.

Most runs use a pipeline of fake_pipelines.py, with which a worker starts in a second; nothing else is put in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fake_pipelines
import pytest
import ray
from job_making import environment, write_jsonl
from progress_hooks import SMALL, ProgressHook

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.ray_processes import needed_processes_alone
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.reporting.summary import Summary

SUPPORT = Path(__file__).parents[1] / "support"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "strace" in getattr(item, "fixturenames", ()) and shutil.which("strace") is None:
            item.add_marker(pytest.mark.skip("strace is not installed"))


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path) -> None:
    for name in [name for name in os.environ if name.startswith("WANBATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANBATCH_REPORT", "off")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="package")
def _ray() -> Iterator[None]:
    """This process is connected to a Ray: one of its own, or the one of tests/jobs."""
    ray.cloudpickle.register_pickle_by_value(fake_pipelines)
    mine = not ray.is_initialized()
    with ExitStack() as held:
        if mine:
            options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            with needed_processes_alone(held):
                ray.init(address="local", num_cpus=1, object_store_memory=100 << 20, **options)
        yield
        ray.cloudpickle.unregister_pickle_by_value(fake_pipelines)
        if mine:
            ray.shutdown()


@pytest.fixture
def shared_ray(_ray) -> str:
    """The address of the Ray that this process is connected to; tests/jobs, in between, may have started another."""
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def run_rows(shared_ray, tmp_path) -> Callable[..., Summary]:
    """Run rows in this process into ./out. hook: called at each turn of the driver's loop."""

    def call(
        rows: list[dict], load=fake_pipelines.load, hook: Callable[[], object] = lambda: None, **chosen
    ) -> Summary:
        manifest = write_jsonl(tmp_path / "m.jsonl", rows)
        settings = Settings(**{**SMALL, "unit_rows": 1, **chosen})
        return run(manifest, tmp_path / "out", settings, lambda n, done: ProgressHook(n, done, hook), load)

    return call


@pytest.fixture
def start_command(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start `wanbatch run m.jsonl --out out` with a fake pipeline; what still runs at the test's end is killed."""
    started: list[subprocess.Popen] = []

    def start(rows: list[dict], *options: object, pipeline: str = "load", **changes: str | None) -> subprocess.Popen:
        arguments = [write_jsonl(tmp_path / "m.jsonl", rows), "--out", tmp_path / "out", "--unit-rows", "1"]
        for name, value in SMALL.items():
            arguments += [f"--{name}", value]
        command = [sys.executable, SUPPORT / "wanbatch_with.py", pipeline, "run", *arguments, *options]
        if ray.is_initialized() and changes.get("WANBATCH_TEST_RAY") == ray.get_runtime_context().gcs_address:
            changes.setdefault("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE"))  # our own Ray asks for its token
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=tmp_path,
            env=environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


@pytest.fixture
def strace(tmp_path) -> Iterator[Callable[[int, str], None]]:
    """Make system calls of a running process fail, or kill it: `strace(pid, "fsync:error=EIO")`."""
    tracers: list[subprocess.Popen] = []

    def attach(pid: int, fault: str) -> None:
        log = tmp_path / f"strace-{len(tracers)}"
        calls = fault.split(":")[0]
        command = ["strace", "-f", "-o", log, "-e", f"trace={calls}", "-e", f"inject={fault}", "-p", str(pid)]
        tracer = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        tracers.append(tracer)

    yield attach
    for tracer in tracers:
        tracer.terminate()
        tracer.communicate(timeout=20)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system: `small_disk("out", "-o", "size=1m")` at ./out, or at an absolute path."""
    mounted: list[Path] = []

    def mount(where: str, *options: str) -> Path:
        place = tmp_path / where
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], capture_output=True)
