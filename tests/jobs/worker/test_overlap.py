"""The three stages of a worker: what runs beside what, and who is blamed when a worker dies."""

from __future__ import annotations

import pickle
import threading
from functools import partial

import faulty_models
import numpy as np
import pytest
from job_making import log_events, pictures, rows_by_id, write_jsonl

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.retry_policy import ROW_STRIKES
from wanbatch.jobs.driver.worker_pool import Unit, _Given, _Place
from wanbatch.jobs.planning.plan import Plan, Task
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker import unit_task
from wanbatch.jobs.worker.actor import UnitReport, Worker, WorkerSetup, WorkerStatus
from wanbatch.pipeline.generate import Wan


class Gate:
    """Stands before a call: says that it was reached and waits to be opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60), "the gate was never opened"


def load_and_note_thread(*arguments) -> Wan:
    wan = Wan.load(*arguments)
    wan.loaded_in = threading.get_ident()
    return wan


@pytest.fixture
def worker(model, sources, tmp_path) -> Worker:
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    setup = WorkerSetup(model, str(tmp_path), str(sources), False, "cpu", "float32", 2, 0)
    made = Worker(setup, "worker-0", load_and_note_thread)
    made.ready()
    return made


@pytest.fixture
def plan(settings, sources) -> Plan:
    rows = [{"id": name, "prompt": "x", "image": "square.png"} for name in "abc"]
    return prepare(write_jsonl(sources / "overlap.jsonl", rows), settings())[0]


def task(plan: Plan, unit: int):
    return plan.task(unit, 1, "token", np.array([unit]))


def tell(worker: Worker, *tasks: Task, patience: float = 60.0) -> WorkerStatus:
    """One exchange, as a driver has it."""
    return pickle.loads(worker.exchange(pickle.dumps(list(tasks)), patience))


def tell_reports(worker: Worker, count: int = 1) -> list[UnitReport]:
    """Exchanges until so many reports are there."""
    reports: list[UnitReport] = []
    while len(reports) < count:
        reports += tell(worker).reports
    return reports


def test_sources_are_read_and_attempts_written_while_the_model_works(worker, plan, monkeypatch):
    gates, prepared = [Gate(), Gate()], [threading.Event(), threading.Event()]
    waiting, done = iter(gates), iter(prepared)
    generate, load = worker.wan.generate, worker.sources.load
    monkeypatch.setattr(worker.wan, "generate", lambda requests: (next(waiting)(), generate(requests))[1])
    monkeypatch.setattr(worker.sources, "load", lambda source: (load(source), next(done).set())[0])
    for unit in range(2):
        worker.line.put(task(plan, unit))
    assert gates[0].reached.wait(60)
    assert prepared[1].wait(60)  # the model has unit 0 all the while
    gates[0].opened.set()
    assert gates[1].reached.wait(60)
    [report] = tell_reports(worker)  # the model has unit 1 by now
    assert report.attempt.made == ("a",)
    gates[1].opened.set()
    [report] = tell_reports(worker)
    assert report.attempt.made == ("b",)


def test_a_worker_tells_which_unit_has_the_model(worker, plan, monkeypatch):
    in_model, on_disk = Gate(), Gate()
    generate, write = worker.wan.generate, unit_task.write_attempt
    passed = iter([lambda: None, in_model])
    monkeypatch.setattr(worker.wan, "generate", lambda requests: (next(passed)(), generate(requests))[1])
    monkeypatch.setattr(unit_task, "write_attempt", lambda *given: (on_disk(), write(*given))[1])
    worker.line.put(task(plan, 0))
    worker.line.put(task(plan, 1))
    assert on_disk.reached.wait(60)
    assert in_model.reached.wait(60)
    assert tell(worker) == WorkerStatus([], 1, (1, 0))  # unit 0 is being written
    assert tell(worker, patience=0.0) == WorkerStatus([], 1, (1, 0))  # nothing new
    in_model.opened.set()
    assert tell(worker) == WorkerStatus([], 2, (1, 1))
    on_disk.opened.set()
    assert len(tell_reports(worker, 2)) == 2
    assert tell(worker, patience=0.0) == WorkerStatus([], 0, (1, 1))


def test_pictures_are_encoded_while_the_model_makes_the_next_one(worker, settings, sources, monkeypatch):
    rows = [{"id": name, "prompt": "x"} for name in "ab"]
    plan, _ = prepare(write_jsonl(sources / "two.jsonl", rows), settings())
    encoded, gate = threading.Event(), Gate()
    encode, generate = unit_task.encode, worker.wan.generate
    monkeypatch.setattr(unit_task, "encode", lambda *given: (encode(*given), encoded.set())[0])

    def one_and_wait(requests):
        outcomes = generate(requests)
        yield next(outcomes)
        gate()
        yield from outcomes

    monkeypatch.setattr(worker.wan, "generate", one_and_wait)
    worker.line.put(plan.task(0, 1, "token", np.arange(2)))
    assert gate.reached.wait(60)
    assert encoded.wait(60)
    assert tell(worker, patience=0.0) == WorkerStatus([], 0, (0, 1))
    gate.opened.set()
    [report] = tell_reports(worker)
    assert set(report.attempt.made) == {"a", "b"}


def test_what_waiting_costs_is_not_busy_time(worker, plan, monkeypatch):
    generate, gate = worker.wan.generate, Gate()
    monkeypatch.setattr(worker.wan, "generate", lambda requests: (gate(), generate(requests))[1])
    worker.line.put(task(plan, 0))
    worker.line.put(task(plan, 1))
    assert gate.reached.wait(60)
    assert not threading.Event().wait(0.7)  # unit 0 has the model, unit 1 waits for it
    gate.opened.set()
    reports = tell_reports(worker, 2)
    assert reports[0].model_seconds > 0.7
    assert all(report.model_seconds < report.busy_seconds for report in reports)
    assert 0 < reports[1].busy_seconds < 0.7


def test_all_that_touches_the_model_is_done_in_one_thread(worker, plan, monkeypatch):
    threads = {worker.wan.loaded_in}
    generate = worker.wan.generate
    monkeypatch.setattr(
        worker.wan, "generate", lambda requests: (threads.add(threading.get_ident()), generate(requests))[1]
    )
    for unit in range(2):
        worker.line.put(task(plan, unit))
    tell_reports(worker, 2)
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_an_error_is_told_when_everything_before_it_is(worker, plan, monkeypatch):
    load = worker.sources.load
    broken = iter([False, True, False])

    def refuse_the_second(source):
        if next(broken):
            raise MachineryError("the store is gone")
        return load(source)

    monkeypatch.setattr(worker.sources, "load", refuse_the_second)
    for unit in range(3):
        worker.line.put(task(plan, unit))
    [report] = tell_reports(worker)
    assert report.attempt.made == ("a",)
    with pytest.raises(MachineryError, match="store is gone"):
        tell_reports(worker)


# ---- in a run


def test_a_run_takes_less_time_than_its_stages_one_after_the_other(run_here, settings, tmp_path):
    rows = [{"id": f"slow-{number}", "prompt": "x", "seed": number} for number in range(5)]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    load = partial(faulty_models.load_with_slow_disk, 1.0)
    ran = run_here(manifest, tmp_path / "out", settings(unit_rows=1), load)
    assert ran.summary.exit_code == 0
    events = log_events(ran.out, "unit")
    one_by_one = sum(event["busy_seconds"] for event in events)
    assert one_by_one > 10
    # the first unit stands alone; of the other four writes, three are hidden behind the model
    assert ran.summary.seconds["make"] < one_by_one - 1.5
    assert all(0.9 < event["model_seconds"] < event["busy_seconds"] for event in events)
    assert 0.4 < ran.summary.model_busy < 0.95
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
    assert len(log_events(ran.out, "unit_lost")) <= 1 + ROW_STRIKES


@pytest.mark.slow
def test_a_unit_that_cannot_be_written_costs_no_other_row(run_here, settings, tmp_path):
    """The row in the model when the worker dies is taken for the cause at first, and is made all the same."""
    rows = [{"id": "unwritable-a", "prompt": "x"}, *({"id": f"slow-{n}", "prompt": "x"} for n in range(3))]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    load = partial(faulty_models.load_with_slow_disk, 0.3)
    ran = run_here(manifest, tmp_path / "out", settings(unit_rows=1), load)
    assert sorted(rows_by_id(ran.out)) == ["slow-0", "slow-1", "slow-2"]
    assert list(rows_by_id(ran.out, "failures")) == ["unwritable-a"]


# ---- room for units


def place(*units: Unit, made: int = 0, trusted: bool = True) -> _Place:
    found = _Place(0, actor="an actor", trusted=trusted, made=made)
    for unit in units:
        found.in_hand.append(_Given(unit, 10.0))
    return found


def unit(attempt: int = 1) -> Unit:
    return Unit(0, np.arange(1), attempt)


def test_a_worker_has_two_units_to_make_and_two_to_write():
    assert place(unit()).has_room
    assert not place(unit(), unit()).has_room
    assert place(unit(), unit(), made=1).has_room
    assert place(*[unit()] * 3, made=2).has_room
    assert not place(*[unit()] * 4, made=3).has_room


def test_a_suspect_stands_alone_and_so_does_the_first_unit_of_a_worker():
    assert not place(Unit(0, np.arange(1), suspect=True)).has_room
    assert not place(unit(), trusted=False).has_room


def test_the_clock_of_a_unit_starts_with_the_model():
    waiting = place(unit(), unit())
    waiting.turn()
    first, second = waiting.in_hand
    assert first.turned is not None
    assert second.turned is None
    waiting.made = 1
    waiting.turn()
    assert second.turned is not None
