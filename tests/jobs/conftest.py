"""Fixtures for the tests of `wanbatch.jobs`: one Ray and one small model for all, and runs that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import ray
import torch
from job_making import picture, write_jsonl
from small_models import save_random_pipeline

from wanbatch.jobs.progress import progress_for
from wanbatch.jobs.run import Summary, run
from wanbatch.jobs.settings import Settings
from wanbatch.pipeline import models

HERE = Path(__file__).parent


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
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
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
def model(model_folder) -> models.ModelInfo:
    return models.find(str(model_folder))


@pytest.fixture(scope="session")
def settings(model_folder) -> Callable[..., Settings]:
    """Settings with the small model and small pictures."""

    def make(**changes) -> Settings:
        return Settings(**{"model": str(model_folder), "width": 32, "height": 32, "steps": 2, **changes})

    return make


@pytest.fixture(scope="session")
def local_ray(_environment) -> Iterator[None]:
    """One Ray for all runs in this process, with the environment of these tests in its workers."""
    ray.shutdown()  # the one of tests/faults, if they came before; they can do with this one
    ray.init(
        address="local",
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


@pytest.fixture(scope="session")
def run_here(local_ray) -> Callable[..., Ran]:
    """Run a manifest in this process."""

    def call(manifest: Path, out: Path, chosen: Settings, load: Callable | None = None) -> Ran:
        stream = StringIO()
        summary = run(manifest, out, chosen, lambda total, before: progress_for(total, before, stream), load)
        return Ran(summary, manifest, out, stream.getvalue())

    return call


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


MIXED = [
    {"id": "plain", "prompt": "a red heart", "note": "first", "price": 1.5},
    {"prompt": "a blue star on a striped background", "seed": 77, "price": 2},
    {"id": "wide-one", "prompt": "a green circle", "width": 96, "height": 32, "guidance": 1.0, "steps": 3},
    {"id": "i2i-keep", "prompt": "a star", "image": "square.png", "creativity": 0.0},
    {"id": "i2i-some", "prompt": "a star", "image": "square.png", "creativity": 0.35, "seed": 5, "steps": 8},
    {"id": "i2i-most", "prompt": "a star", "image": "square.png", "creativity": 0.9, "sampler": "euler"},
    {"id": "i2i-default", "prompt": "a star", "image": "wide.png", "steps": 5},
    {"id": "turned", "image": "turned.jpg", "negative_prompt": "dotted", "sigmas": [1, 0.5, 0.2], "sampler": "heun"},
    {"id": "several", "prompt": "a square", "num_images": 3, "seed": 2**63 - 2},
    {"id": "two", "images": ["square.png", "tall.jpg"], "blend_weights": [3, 1], "width": 64, "height": 64},
    {"blend_group": "group", "image": "wide.png", "blend_weight": 1, "prompt": "a heart", "note": "of the group"},
    {"blend_group": "group", "image": "square.png", "blend_weight": 2, "width": 64, "height": 32},
    {"blend_group": "group", "image": "tall.jpg", "creativity": 0.5, "steps": 5},
    {
        "id": "shifted",
        "prompt": "a heart",
        "shift": 1.0,
        "guidance": 2.5,
        "num_images": 2,
        "sampler": "lcm",
        "schedule": "beta",
    },
]
MIXED_IDS = [
    *["plain", "00000001", "wide-one", "i2i-keep", "i2i-some", "i2i-most", "i2i-default", "turned"],
    *["several-0", "several-1", "several-2", "two", "group", "shifted-0", "shifted-1"],
]


@pytest.fixture(scope="session")
def mixed(run_here, settings, sources, tmp_path_factory) -> Ran:
    """One of everything, without faults: 14 manifest rows, 15 pictures."""
    manifest = write_jsonl(sources / "mixed.jsonl", MIXED)
    return run_here(manifest, tmp_path_factory.mktemp("runs") / "mixed", settings(unit_rows=4, seed=9))


FAULTY = [
    {"id": "good-0", "prompt": "a red heart"},
    {"id": "absent", "prompt": "a heart", "image": "nowhere.png"},
    {"id": "cut", "prompt": "a heart", "image": "truncated.png"},
    {"id": "html", "prompt": "a heart", "image": "page.png"},
    {"id": "blend-absent", "images": ["square.png", "nowhere.png"]},
    {"id": "raise-1", "prompt": "a star"},
    {"id": "good-1", "prompt": "a star", "image": "square.png"},
    {"id": "late-1", "prompt": "a circle"},
    {"id": "endless", "prompt": "a circle", "guidance": 1e38, "steps": 4},
    {"id": "good-2", "prompt": "a circle"},
]


@pytest.fixture(scope="session")
def faulty(run_here, settings, sources, tmp_path_factory) -> Ran:
    """Three good rows among seven that cannot be made, all in one unit or two."""
    import faulty_models

    manifest = write_jsonl(sources / "faulty.jsonl", FAULTY)
    out = tmp_path_factory.mktemp("runs") / "faulty"
    return run_here(manifest, out, settings(unit_rows=16), faulty_models.load)


@pytest.fixture
def manifest(tmp_path) -> Callable[..., Path]:
    """Writes rows to shop.jsonl, in a folder of their own."""

    def write(*rows: dict | str, name: str = "shop.jsonl") -> Path:
        return write_jsonl(tmp_path / name, rows)

    return write
