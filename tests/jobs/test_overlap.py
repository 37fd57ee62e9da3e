"""The three stages of a worker: what runs beside what, and who is blamed when a worker dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import faulty_models
import numpy as np
import pytest
from job_making import log_events, pictures, rows_by_id, write_jsonl

from wanbatch.errors import MachineryError
from wanbatch.jobs import work
from wanbatch.jobs.backlog import ROW_STRIKES
from wanbatch.jobs.crew import Unit, _Given, _Place
from wanbatch.jobs.plan import Plan
from wanbatch.jobs.prepare import prepare
from wanbatch.jobs.worker import Worker, WorkerSetup


class Gate:
    """Stands before a call: says that it was reached and waits to be opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60), "the gate was never opened"


@pytest.fixture
def worker(model, sources, tmp_path) -> Worker:
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    made = Worker(WorkerSetup(model, str(tmp_path), str(sources), False, "cpu", "float32", 2, 0), "worker-0")
    made.ready()
    return made


@pytest.fixture
def plan(settings, sources) -> Plan:
    rows = [{"id": name, "prompt": "x", "image": "square.png"} for name in "abc"]
    return prepare(write_jsonl(sources / "overlap.jsonl", rows), settings())[0]


@pytest.fixture
def threads() -> Iterator[dict[str, ThreadPoolExecutor]]:
    """One thread a stage, as an actor has."""
    pools = {stage: ThreadPoolExecutor(1) for stage in ("prepare", "make", "finish")}
    yield pools
    for pool in pools.values():
        pool.shutdown(wait=True)


def task(plan: Plan, unit: int):
    return plan.task(unit, 1, "token", np.array([unit]))


def test_sources_are_read_and_attempts_written_while_the_model_works(worker, plan, threads, monkeypatch):
    gates = [Gate(), Gate()]
    waiting = iter(gates)
    generate = worker.wan.generate
    monkeypatch.setattr(worker.wan, "generate", lambda requests: (next(waiting)(), generate(requests))[1])
    prepared = [threads["prepare"].submit(worker.prepare, task(plan, unit)) for unit in range(2)]
    made = [threads["make"].submit(worker.make, unit) for unit in range(2)]
    finished = [threads["finish"].submit(worker.finish, unit) for unit in range(2)]
    assert gates[0].reached.wait(60)
    prepared[1].result(60)  # the model has unit 0 all the while
    assert not made[0].done()
    gates[0].opened.set()
    assert gates[1].reached.wait(60)
    assert finished[0].result(60).attempt.made == ("a",)  # the model has unit 1 by now
    assert not made[1].done()
    gates[1].opened.set()
    assert finished[1].result(60).attempt.made == ("b",)


def test_pictures_are_encoded_while_the_model_makes_the_next_one(worker, settings, sources, threads, monkeypatch):
    rows = [{"id": name, "prompt": "x"} for name in "ab"]
    plan, _ = prepare(write_jsonl(sources / "two.jsonl", rows), settings())
    encoded, gate = threading.Event(), Gate()
    encode, generate = work.encode, worker.wan.generate
    monkeypatch.setattr(work, "encode", lambda *given: (encode(*given), encoded.set())[0])

    def one_and_wait(requests):
        outcomes = generate(requests)
        yield next(outcomes)
        gate()
        yield from outcomes

    monkeypatch.setattr(worker.wan, "generate", one_and_wait)
    worker.prepare(plan.task(0, 1, "token", np.arange(2)))
    making = threads["make"].submit(worker.make, 0)
    assert gate.reached.wait(60)
    assert encoded.wait(60)
    gate.opened.set()
    making.result(60)
    assert set(worker.finish(0).attempt.made) == {"a", "b"}


def test_what_waiting_costs_is_not_busy_time(worker, plan, threads):
    making, finishing = threads["make"].submit(worker.make, 0), threads["finish"].submit(worker.finish, 0)
    assert not threading.Event().wait(0.7)  # both wait for a task that is not there yet
    worker.prepare(task(plan, 0))
    making.result(60)
    report = finishing.result(60)
    assert 0 < report.model_seconds < report.busy_seconds < 0.7


def test_an_error_in_one_stage_ends_those_behind_it(worker, plan, monkeypatch):
    def refuse(source):
        raise MachineryError("the store is gone")

    monkeypatch.setattr(worker.sources, "load", refuse)
    with pytest.raises(MachineryError, match="store is gone"):
        worker.prepare(task(plan, 0))
    with pytest.raises(MachineryError, match="store is gone"):
        worker.make(0)
    with pytest.raises(MachineryError, match="store is gone"):
        worker.finish(0)


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
    found = _Place(0, actor="an actor", trusted=trusted)
    for number, unit in enumerate(units):
        found.in_hand.append(_Given(unit, None, None, 10.0, made=number < made))
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
    first.made = True
    waiting.turn()
    assert second.turned is not None
