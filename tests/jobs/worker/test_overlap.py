"""The three stages of a worker: what runs beside what, and what the worker reports of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import faulty_models
import numpy as np
import pytest
from job_making import log_events, pictures, rows_by_id, write_jsonl
from worker_calls import Gate, GatedPipeline, exchange, reports_of

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.retry_policy import MAX_DEATHS_OF_ROW
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.units import Task
from wanbatch.jobs.worker import unit_task, units_in_model
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import WorkerSetup, WorkerStatus
from wanbatch.manifests.sources.loader import SourceLoader


@pytest.fixture
def start_worker(model, sources, tmp_path) -> Callable[..., Worker]:
    """Starts a worker that is ready, with a pipeline."""

    def start(pipeline: GatedPipeline) -> Worker:
        (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
        setup = WorkerSetup(model, str(tmp_path), str(sources), False, "cpu", "float32", 2, 0)
        worker = Worker(setup, "worker-0", pipeline.load)
        worker.ready()
        return worker

    return start


@pytest.fixture
def plan(settings, sources) -> Plan:
    rows = [{"id": name, "prompt": "x", "image": "square.png"} for name in "abc"]
    return prepare(write_jsonl(sources / "overlap.jsonl", rows), settings())[0]


def task(plan: Plan, unit: int) -> Task:
    return plan.task(unit, 1, "token", np.array([unit]))


def one_after_the_other(*calls: Callable[[], None]) -> Callable[[], None]:
    """Each call of it calls the next one."""
    left = iter(calls)
    return lambda: next(left)()


def note_loaded(monkeypatch, *loaded: threading.Event) -> None:
    """Set the next event whenever a source has been read."""
    left, load = iter(loaded), SourceLoader.load
    monkeypatch.setattr(SourceLoader, "load", lambda self, source: (load(self, source), next(left).set())[0])


def test_sources_are_read_and_attempts_written_while_the_model_works(start_worker, plan, monkeypatch):
    gates, loaded = [Gate(), Gate()], [threading.Event(), threading.Event()]
    note_loaded(monkeypatch, *loaded)
    worker = start_worker(GatedPipeline(one_after_the_other(*gates)))
    exchange(worker, task(plan, 0), task(plan, 1), seconds=0.0)
    assert gates[0].reached.wait(60)
    assert loaded[1].wait(60)  # the model has unit 0 all the while
    gates[0].opened.set()
    assert gates[1].reached.wait(60)
    [report] = reports_of(worker)  # the model has unit 1 by now
    assert report.attempt.made == ("a",)
    gates[1].opened.set()
    [report] = reports_of(worker)
    assert report.attempt.made == ("b",)


def test_a_worker_reports_which_unit_has_the_model(start_worker, plan, monkeypatch):
    in_model, on_disk = Gate(), Gate()
    write = unit_task.write_attempt
    monkeypatch.setattr(unit_task, "write_attempt", lambda *given: (on_disk(), write(*given))[1])
    worker = start_worker(GatedPipeline(one_after_the_other(lambda: None, in_model)))
    exchange(worker, task(plan, 0), seconds=0.0)
    assert on_disk.reached.wait(60)
    assert exchange(worker, task(plan, 1), seconds=0.0).reports == []
    assert in_model.reached.wait(60)
    assert exchange(worker, seconds=0.0) == WorkerStatus([], 1, (1, 0), 2, True)  # unit 0 is being written
    in_model.opened.set()
    assert exchange(worker) == WorkerStatus([], 2, (1, 1), 2, True)
    assert exchange(worker, seconds=0.0) == WorkerStatus([], 2, (1, 1), 2, True)  # nothing new
    on_disk.opened.set()
    assert len(reports_of(worker, count=2)) == 2
    assert exchange(worker, seconds=0.0) == WorkerStatus([], 0, (1, 1), has_made=True)


def test_pictures_are_encoded_while_the_model_makes_the_next_one(start_worker, settings, sources, monkeypatch):
    rows = [{"id": name, "prompt": "x"} for name in "ab"]
    plan, _ = prepare(write_jsonl(sources / "two.jsonl", rows), settings())
    encoded, gate, encode = threading.Event(), Gate(), unit_task.encode
    monkeypatch.setattr(unit_task, "encode", lambda *given: (encode(*given), encoded.set())[0])
    worker = start_worker(GatedPipeline(between=gate))
    exchange(worker, plan.task(0, 1, "token", np.arange(2)), seconds=0.0)
    assert gate.reached.wait(60)
    assert encoded.wait(60)
    assert exchange(worker, seconds=0.0) == WorkerStatus([], 0, (0, 1), 1, True)
    gate.opened.set()
    [report] = reports_of(worker)
    assert report.attempt.made == ("a", "b")


def test_waiting_for_the_model_is_not_working(start_worker, plan, monkeypatch):
    """By a clock that goes on only while unit 0 has the model and unit 1 waits for it."""
    now, gate, loaded = [0.0], Gate(), [threading.Event() for _ in range(3)]
    note_loaded(monkeypatch, *loaded)
    for module in (unit_task, units_in_model):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    worker = start_worker(GatedPipeline(one_after_the_other(gate, lambda: None, lambda: None)))
    exchange(worker, *(task(plan, unit) for unit in range(3)), seconds=0.0)
    assert gate.reached.wait(60)
    assert loaded[2].wait(60)  # so unit 1 is ready
    now[0] = 1.0
    gate.opened.set()
    first, second, _ = reports_of(worker, count=3)
    assert (first.model_seconds, first.busy_seconds) == (1.0, 1.0)
    assert (second.model_seconds, second.busy_seconds) == (0.0, 0.0)


def test_all_that_touches_the_model_is_done_in_one_thread(start_worker, plan):
    pipeline = GatedPipeline()
    worker = start_worker(pipeline)
    reports_of(worker, task(plan, 0), task(plan, 1), count=2)
    assert len(pipeline.threads) == 1
    assert pipeline.threads != {threading.get_ident()}


def test_an_error_is_told_when_everything_before_it_is(start_worker, plan, monkeypatch):
    load, broken = SourceLoader.load, iter([False, True, False])

    def refuse_the_second(self, source):
        if next(broken):
            raise MachineryError("the store is gone")
        return load(self, source)

    monkeypatch.setattr(SourceLoader, "load", refuse_the_second)
    worker = start_worker(GatedPipeline())
    [report] = reports_of(worker, *(task(plan, unit) for unit in range(3)))
    assert report.attempt.made == ("a",)
    with pytest.raises(MachineryError, match="store is gone"):
        reports_of(worker)


# ---- in a run


@pytest.mark.slow
def test_a_run_writes_units_while_the_model_makes_the_next(run_here, settings, tmp_path):
    """Writing waits for the next unit to get the model, but for the first unit, which a worker gets alone."""
    rows = [{"id": f"slow-{number}", "prompt": "x", "seed": number} for number in range(5)]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    (begun := tmp_path / "begun").mkdir()
    load = partial(faulty_models.load_that_overlaps, begun, 4)
    ran = run_here(manifest, tmp_path / "out", settings(unit_rows=1), load)
    assert (ran.summary.exit_code, ran.summary.failures) == (0, {})
    assert all(1 <= event["model_seconds"] < event["busy_seconds"] for event in log_events(ran.out, "unit"))
    assert 0 < ran.summary.model_busy <= 1
    plain = run_here(manifest, tmp_path / "plain", settings(unit_rows=3))
    assert pictures(plain.out) == pictures(ran.out)


@pytest.mark.slow
def test_a_unit_that_is_being_written_is_not_blamed_for_the_one_in_the_model(run_here, settings, tmp_path):
    rows = [{"id": name, "prompt": "x"} for name in ("a", "kill-b", "c")]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    load = partial(faulty_models.load_with_slow_disk, 1.0)
    ran = run_here(manifest, tmp_path / "out", settings(unit_rows=1), load)
    assert [row["attempt"] for row in rows_by_id(ran.out, "timings").values()] == [1, 1]
    assert ran.summary.failures == {"worker_died": 1}
    assert len(log_events(ran.out, "unit_lost")) <= 1 + MAX_DEATHS_OF_ROW


@pytest.mark.slow
def test_a_unit_that_cannot_be_written_costs_no_other_row(run_here, settings, tmp_path):
    """The row in the model when the worker dies is taken for the cause at first, and is made all the same."""
    rows = [{"id": "unwritable-a", "prompt": "x"}, *({"id": f"slow-{n}", "prompt": "x"} for n in range(3))]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    load = partial(faulty_models.load_with_slow_disk, 0.3)
    ran = run_here(manifest, tmp_path / "out", settings(unit_rows=1), load)
    assert sorted(rows_by_id(ran.out)) == ["slow-0", "slow-1", "slow-2"]
    assert list(rows_by_id(ran.out, "failures")) == ["unwritable-a"]
