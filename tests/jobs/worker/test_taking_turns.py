"""Moves of parts that take turns on a device go from the pipeline that makes them to the summary of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from fake_pipelines import FakePipeline
from job_making import write_jsonl
from worker_making import context_of

from wanbatch.jobs.driver.run_counters import RunCounters
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.jobs.reporting.text_summary import summary_text
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import generate_units
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import Failed, Request, Result


class MovingPipeline(FakePipeline):
    """Of which three parts come to the device before the first picture, and one before the second."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for moves, outcome in zip((3, 1, 0), super().generate(requests), strict=True):
            yield replace(outcome, moves=moves, move_seconds=moves / 4)


def test_a_units_moves_are_those_of_its_pictures(settings, tmp_path, model):
    rows = [{"id": f"r{number}", "prompt": "a heart"} for number in range(3)]
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", rows), settings(steps=4))
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    with ThreadPoolExecutor(1) as encoders, SourceLoader(tmp_path) as loader:
        setup = WorkerSetup(model, str(tmp_path), str(tmp_path), False, "cpu", "float32", 2, 0)
        context = context_of(setup, MovingPipeline(2), loader, encoders)
        task = UnitTask(context, plan.task(0, 1, "token", np.arange(3)), lambda *progress: None)
        task.load_sources()
        generate_units(task, lambda: None)
        report = task.write()
    assert (report.moves, report.move_seconds) == (4, 1.0)


def test_the_summary_says_what_moved(tmp_path):
    counters = RunCounters(10, 0, 0)
    counters.parts_moved(4, 1.0)
    counters.parts_moved(0, 0.0)
    counters.parts_moved(2, 0.5)
    given = {"rows": 3, "made": 3, "quarantined": 0, "failures": {}, "made_now": 3, "interrupted": False}
    summary = Summary(out=str(tmp_path), seconds={"make": 2.0}, **given)
    told = summary_text(replace(summary, moves=counters.moves, move_seconds=counters.move_seconds))
    assert "  memory    parts of the model came to the device 6 times, in turns, in 1.5 s" in told.splitlines()
    assert "memory" not in summary_text(summary)
