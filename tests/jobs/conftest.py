"""Fixtures for the tests of `wanbatch.jobs`: one Ray and one small model for all, and runs that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import ray
import torch
from example_rows import FAULTY, MIXED
from job_making import picture, write_jsonl
from local_pool import run_without_ray
from small_models import save_random_pipeline

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver import run as driver_run
from wanbatch.jobs.driver.ray_processes import needed_processes_alone
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.reporting.progress import progress_for
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.pipeline.loading import registry

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """No settings of whoever runs the tests; workers can import the modules beside this file.

    One thread here and in workers: small pictures gain nothing from more, and pixels may depend on how many.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANBATCH_")]:
            patch.delenv(name)
        patch.setenv("WANBATCH_REPORT", "off")  # for the sake of time; those of reports ask for it
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path) -> None:
    """No wanbatch.toml but a test's own; what is written by mistake lands in the test's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return save_random_pipeline(tmp_path_factory.mktemp("jobs") / "model")


@pytest.fixture(scope="session")
def model(model_folder) -> registry.ModelInfo:
    return registry.find(str(model_folder))


@pytest.fixture(scope="session")
def settings(model_folder) -> Callable[..., Settings]:
    """Settings with the small model and small pictures."""

    def make(**changes) -> Settings:
        return Settings(**{"model": str(model_folder), "width": 32, "height": 32, "steps": 2, **changes})

    return make


@pytest.fixture(scope="package")
def local_ray(_environment) -> Iterator[None]:
    """One Ray for all runs in this process, with the environment of these tests in its workers.

    It ends with the last of these tests: idle, it takes a twentieth of a core.
    """
    ray.shutdown()  # the one of tests/faults, if they came before; they can do with this one
    with ExitStack() as held:
        with needed_processes_alone(held):
            ray.init(
                address="local",
                num_cpus=1,  # workers ask for none, and it starts a process for each
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=100 << 20,
            )
        yield
        ray.shutdown()


@dataclass(frozen=True)
class Ran:
    """A run in this process: what came back, where it wrote and what it printed as progress."""

    summary: Summary
    manifest: Path
    out: Path
    progress: str


def ran(runner: Callable[..., Summary], manifest: Path, out: Path, chosen: Settings, *more, **named) -> Ran:
    """What `runner`, which is called as `run`, makes of a manifest."""
    stream = StringIO()
    summary = runner(manifest, out, chosen, partial(progress_for, stream=stream), *more, **named)
    return Ran(summary, manifest, out, stream.getvalue())


@pytest.fixture(scope="package")
def run_here(local_ray) -> Callable[..., Ran]:
    """Run a manifest in this process."""
    return partial(ran, run)


@pytest.fixture(scope="session")
def run_fast(_environment) -> Callable[..., Ran]:
    """As `run_here`, where pictures may show anything and no process matters: without a model and without Ray."""
    return partial(ran, run_without_ray)


@pytest.fixture
def fast_retries(monkeypatch) -> None:
    """`retry` works as `run_fast` does."""
    monkeypatch.setattr(driver_run, "run", run_without_ray)


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """A folder with source pictures, good and bad ones."""
    folder = tmp_path_factory.mktemp("manifests")
    picture(folder / "wide.png", 96, 48, seed=1)
    picture(folder / "square.png", 64, 64, seed=2)
    picture(folder / "tall.jpg", 40, 90, seed=3)
    picture(folder / "turned.jpg", 96, 48, seed=4, orientation=6)
    whole = (folder / "square.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.png").write_text("<!doctype html><title>404 Not Found</title>")
    return folder


@pytest.fixture(scope="session")
def mixed(run_fast, settings, sources, tmp_path_factory) -> Ran:
    """One of everything, without faults: 14 manifest rows, 15 pictures. Made by the model in this process."""
    manifest = write_jsonl(sources / "mixed.jsonl", MIXED)
    return run_fast(manifest, tmp_path_factory.mktemp("runs") / "mixed", settings(unit_rows=4, seed=9), load=None)


@pytest.fixture(scope="session")
def faulty(run_fast, settings, sources, tmp_path_factory) -> Ran:
    """Three good rows among seven that cannot be made, all in one unit or two. Made by the model in this process."""
    import faulty_models

    manifest = write_jsonl(sources / "faulty.jsonl", FAULTY)
    out = tmp_path_factory.mktemp("runs") / "faulty"
    return run_fast(manifest, out, settings(unit_rows=16), load=faulty_models.load)


@pytest.fixture
def manifest(tmp_path) -> Callable[..., Path]:
    """Writes rows to shop.jsonl, in a folder of their own."""

    def write(*rows: dict | str, name: str = "shop.jsonl") -> Path:
        return write_jsonl(tmp_path / name, rows)

    return write
