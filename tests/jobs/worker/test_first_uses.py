"""What a worker builds while it loads its model: in the model's thread, for the run's own pictures."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from first_use_making import Begun, hold_weights, note_first_uses, run_kernels
from job_making import write_jsonl

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker import actor
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import EngineChoice, WorkerSetup
from wanbatch.jobs.worker.start_steps import StartSteps
from wanbatch.pipeline import generate
from wanbatch.pipeline.first_uses.selection import FirstUse, Size


@pytest.fixture
def begun(monkeypatch) -> list[Begun]:
    """First uses as they begin, by kernels on the CPU. The model's files are read once there are three."""
    run_kernels(monkeypatch)
    uses = note_first_uses(monkeypatch)
    hold_weights(monkeypatch, lambda: len(uses) >= 3)
    return uses


@pytest.fixture
def setup(model, settings, sources, tmp_path) -> WorkerSetup:
    """Of a run of pictures of 64 x 32 without guidance."""
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    rows = [{"prompt": "a big red heart", "guidance": 1.0, "width": 64, "height": 32}]
    plan, _ = prepare(write_jsonl(sources / "first.jsonl", rows), settings())
    return WorkerSetup(
        model, str(tmp_path), str(sources), False, "cpu", "float32", slots=2, threads=0, examples=plan.examples([0])
    )


def test_the_models_thread_makes_them_and_the_log_says_how_long_it_took(begun, setup, monkeypatch):
    of_model: list[str] = []
    warm_up = generate.Wan.warm_up
    monkeypatch.setattr(
        generate.Wan,
        "warm_up",
        lambda self, examples: of_model.append(threading.current_thread().name) or warm_up(self, examples),
    )
    started = Worker(setup, "worker-0").ready()
    assert {one.thread for one in begun} == set(of_model)
    assert [one.use for one in begun][:2] == [
        FirstUse(16),
        FirstUse(30, Size(64, 32, guided=False, has_source=False)),
    ]
    assert started.steps["beside"]["first uses"] > 0
    assert started.backends["denoise"] == "kernels-float32"


def test_nothing_is_made_of_parts_that_engines_run_in_place_of(begun, setup):
    wan = actor._load_wan(
        setup.model,
        "cpu",
        "float32",
        2,
        replace(setup, engines=EngineChoice("store", None, required=False)),
        StartSteps(),
    )
    assert begun == []
    assert wan.first_uses.made == {}
