"""The next unit enters the model while the last images of one are made there, and each unit stays whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_pipelines import PickyPipeline
from job_making import write_jsonl
from worker_making import context_of

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.stage_threads import StagePipeline
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import ModelProgress, generate_units
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import Failed, Request, Result

NAMES = ("a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2")


class StreamingPipeline(PickyPipeline):
    """Makes two rows at a time, and asks for more when one is left. Notes which were made together."""

    streams = True

    def __init__(self, raising: str = "") -> None:
        super().__init__(2)
        self.raising = raising
        self.together: list[tuple[str, ...]] = []

    def generate(
        self, requests: Sequence[Request], more: Callable[[], Sequence[Request]] | None = None
    ) -> Iterator[Result | Failed]:
        waiting = deque(requests)
        while True:
            if len(waiting) < 2 and more is not None:
                waiting.extend(more())
            if not waiting:
                return
            now = [waiting.popleft() for _ in range(min(2, len(waiting)))]
            self.together.append(tuple(request.id for request in now))
            for request in now:
                if request.id == self.raising:
                    raise ValueError("no such picture")
                yield self.result(request)


@pytest.fixture
def run_units(settings, tmp_path, model) -> Iterator[Callable[..., tuple[list[str], dict[str, UnitTask]]]]:
    """Runs three units of three rows; returns the order in which they left the model, and the units by letter."""
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", [{"id": name, "prompt": "x"} for name in NAMES]), settings())
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    setup = WorkerSetup(model, str(tmp_path), str(tmp_path), False, "cpu", "float32", 2, 0)
    with ThreadPoolExecutor(1) as encoders, SourceLoader(tmp_path) as loader:

        def run(pipeline: StreamingPipeline, stops: Callable[[], bool] = lambda: False):
            context = context_of(setup, pipeline, loader, encoders)
            units = {}
            for number, letter in enumerate("abc"):
                task = plan.task(number, 1, "token", np.arange(3) + 3 * number)
                units[letter] = UnitTask(context, task, lambda *progress: None, stops)
                units[letter].load_sources()
            waiting, left = deque([units["b"], units["c"]]), []
            generate_units(
                units["a"],
                lambda: waiting.popleft() if waiting else None,
                lambda unit: left.append("abc"[unit.task.unit]),
            )
            return left, units

        yield run


def test_rows_of_the_next_unit_are_made_beside_the_last_ones_of_a_unit(run_units):
    pipeline = StreamingPipeline()
    left, units = run_units(pipeline)
    assert pipeline.together == [("a0", "a1"), ("a2", "b0"), ("b1", "b2"), ("c0", "c1"), ("c2",)]
    assert left == ["a", "b", "c"]
    for letter, unit in units.items():
        assert unit.write().attempt.made == tuple(f"{letter}{number}" for number in range(3))


def test_an_exception_is_traced_to_its_row_in_whatever_unit(run_units):
    pipeline = StreamingPipeline(raising="b0")
    left, units = run_units(pipeline)
    reports = {letter: units[letter].write() for letter in left}
    assert {letter: report.attempt.made for letter, report in reports.items()} == {
        "a": ("a0", "a1", "a2"),
        "b": ("b1", "b2"),
    }
    assert [name for name, _ in reports["b"].attempt.failed] == ["b0"]
    assert left == ["a", "b"], "unit c was not in the model yet: it comes next"


def test_a_run_that_stops_keeps_what_each_unit_has(run_units):
    pipeline = StreamingPipeline()
    left, units = run_units(pipeline, lambda: len(pipeline.together) > 1)
    assert sorted(left) == ["a", "b"]
    first, second = (units[letter].write().attempt for letter in "ab")
    assert first.made == ("a0", "a1", "a2")
    assert second is None


def test_each_unit_has_its_part_of_the_time_of_the_model(run_units, monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("wanbatch.jobs.worker.units_in_model.perf_counter", lambda: float(next(ticks)))
    _, units = run_units(StreamingPipeline())
    assert [unit.write().model_seconds for unit in units.values()] == [3.0, 3.0, 3.0]


def test_progress_is_that_of_the_oldest_unit():
    progress = ModelProgress()
    assert progress.oldest == (-1, 0)
    progress.note(7, 3, 0, 0)
    progress.note(7, 3, 2, 0)
    assert not progress.has_made, "they have failed"
    progress.note(8, 4, 1, 1)
    assert progress.has_made
    assert (progress.oldest, progress.waiting) == ((7, 0), 4), "what has failed is not made"
    progress.note(7, 4, 3, 1)
    assert (progress.oldest, progress.waiting) == ((7, 1), 4)
    progress.left(8)
    assert (progress.oldest, progress.waiting) == ((7, 1), 1)
    progress.left(7)
    assert progress.waiting == 0
    progress.note(9, 2, 0, 0)
    assert (progress.oldest, progress.waiting) == ((9, 0), 2)
    assert progress.has_made


def test_units_are_finished_in_their_order_whatever_the_order_in_which_they_leave_the_model():
    entered = threading.Event()

    def generate(work: int, follow: Callable[[], int | None], left: Callable[[int], None]) -> None:
        assert entered.wait(60)
        others = []
        while len(others) < 2:
            if (other := follow()) is not None:
                others.append(other)
        for one in (*reversed(others), work):
            left(one)

    stages = StagePipeline(lambda task: task, generate, lambda work: work * 10)
    for task in (1, 2, 3):
        stages.submit(task)
    entered.set()
    finished = []
    while len(finished) < 3:
        status = stages.wait_for_status(60)
        finished += status.finished
        assert status.generated <= status.entered
    assert finished == [10, 20, 30]
