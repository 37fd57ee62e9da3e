"""What a unit's rows took adds up to what its worker was busy with it, on a clock that only the work itself moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_pipelines import FakePipeline
from job_making import write_jsonl
from worker_making import context_of

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker import unit_task, units_in_model
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import generate_units
from wanbatch.manifests.dataset.image_formats import ImageFormat, Metadata
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import LoadedImage, SourceLoader
from wanbatch.pipeline.core.requests import Failed, Request, Result, Seconds

STAGES = ("load", "text", "encode", "denoise", "decode", "image")  # writing has its clock in the dataset
LOAD, ENCODE = 4.0, 0.5
ROW = Seconds(1.0, 2.0, 8.0, 16.0)


class Clock(threading.local):
    """Seconds of each thread; stands still unless somebody works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


class TimedPipeline(FakePipeline):
    """Takes its time for each row and says so."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for outcome in super().generate(requests):
            CLOCK.work(ROW.text + ROW.encode + ROW.denoise + ROW.decode)
            yield replace(outcome, seconds=ROW)


class TimedFormat(ImageFormat):
    def encode(self, pixels: np.ndarray, metadata: Metadata | None = None) -> bytes:
        CLOCK.work(ENCODE)
        return super().encode(pixels, metadata)


class TimedLoader(SourceLoader):
    def load(self, source: Source) -> LoadedImage:
        CLOCK.work(LOAD)
        return super().load(source)


@pytest.fixture
def task(settings, sources, tmp_path, model, monkeypatch) -> Iterator[UnitTask]:
    """Three rows, of which two share a source."""
    rows = [
        {"id": "a", "prompt": "a heart", "image": "square.png", "creativity": 0.6},
        {"id": "b", "prompt": "a star", "image": "square.png", "creativity": 0.9},
        {"id": "c", "prompt": "a circle"},
    ]
    for module in (unit_task, units_in_model):
        monkeypatch.setattr(module, "perf_counter", CLOCK)
    plan, _ = prepare(write_jsonl(sources / "timed.jsonl", rows), settings(steps=8))
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    setup = WorkerSetup(model, str(tmp_path), str(sources), False, "cpu", "float32", 2, 0, format=TimedFormat())
    with ThreadPoolExecutor(1) as encoders:
        context = context_of(setup, TimedPipeline(2), TimedLoader(sources), encoders)
        yield UnitTask(context, plan.task(0, 1, "token", np.arange(3)), lambda *progress: None)


def test_the_seconds_of_rows_add_up_to_the_busy_time(task, tmp_path):
    task.load_sources()
    CLOCK.work(1000.0)  # the model is another unit's meanwhile: nobody is busy with this one
    generate_units(task, lambda: None)
    CLOCK.work(1000.0)
    report = task.write()
    rows = pq.read_table(tmp_path / "_wanbatch" / "tmp" / report.attempt.names["timings"]).to_pylist()
    by_stage = {stage: sum(row[f"{stage}_seconds"] for row in rows) for stage in STAGES}
    assert by_stage == {
        "load": LOAD,
        "text": 3.0,
        "encode": 6.0,
        "denoise": 24.0,
        "decode": 48.0,
        "image": 3 * ENCODE,
    }
    assert report.model_seconds == 81.0
    assert report.busy_seconds == sum(by_stage.values())
