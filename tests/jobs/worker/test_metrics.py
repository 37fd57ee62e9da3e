"""What a worker and a driver export, and how often; nothing of it without Ray."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from wanbatch.jobs.config.metrics import FAILED, MADE, METRICS, MODEL_SECONDS, PENDING, STAGES, MetricSpec
from wanbatch.jobs.driver.progress_metrics import EVERY_SECONDS, ProgressMetrics
from wanbatch.jobs.worker.metrics import RayRecorder, WorkerMetrics


class Recorded:
    """Remembers what is recorded, and checks that it is declared."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float]] = []

    def __call__(self, spec: MetricSpec, value: float, tags: Mapping[str, str]) -> None:
        assert spec in METRICS
        assert set(tags) == set(spec.tags)
        self.values.append((spec.name, value))


class Shown:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def stage(self, text: str) -> None:
        self.told.append(text)

    def update(self, made: int, failed: int) -> None:
        self.told.append((made, failed))

    def close(self) -> None:
        self.told.append("closed")


def test_progress_is_shown_always_and_recorded_now_and_then():
    now, shown, recorded = [0.0], Shown(), Recorded()
    progress = ProgressMetrics(shown, 10, "s3://b/out", recorded, lambda: now[0])
    progress.stage("making")
    for made in range(4):
        progress.update(made, 1)
        now[0] += EVERY_SECONDS / 2
    progress.close()
    assert shown.told == ["making", (0, 1), (1, 1), (2, 1), (3, 1), "closed"]
    assert [value for name, value in recorded.values if name == MADE.name] == [0, 2]
    assert [value for name, value in recorded.values if name == PENDING.name] == [9, 7]


def test_the_end_is_recorded_whenever_it_comes():
    recorded = Recorded()
    progress = ProgressMetrics(Shown(), 2, "out", recorded, lambda: 0.0)
    progress.update(0, 0)
    progress.update(1, 1)
    assert recorded.values[-3:] == [(MADE.name, 1), (FAILED.name, 1), (PENDING.name, 0)]


def test_a_worker_records_the_seconds_of_its_units_and_its_slots():
    recorded = Recorded()
    metrics = WorkerMetrics("node7", "NVIDIA H100", "3", recorded)
    metrics.unit_finished(dict.fromkeys(STAGES, 0.5), 2.5)
    metrics.slots(2, 4)
    assert len(recorded.values) == len(STAGES) + 3
    assert (MODEL_SECONDS.name, 2.5) in recorded.values


def test_without_ray_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("wanbatch.jobs.worker.metrics._metric", lambda spec: pytest.fail("made a metric"))
    RayRecorder()(MADE, 1, {"out": "x"})


def test_metrics_that_ray_does_not_take_cost_one_warning_and_no_run(monkeypatch, caplog):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("wanbatch.jobs.worker.metrics._metric", lambda spec: 1 / 0)
    record = RayRecorder()
    for _ in range(3):
        record(MADE, 1, {"out": "x"})
    assert [one.levelname for one in caplog.records] == ["WARNING"]
