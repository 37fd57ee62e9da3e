"""Calls a `Worker` in this process as a driver does, and stops its stages where a test wants."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence

from around_wan import AroundWan

from wanbatch.jobs.planning.units import Task
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import UnitReport, WorkerStatus
from wanbatch.pipeline.core.requests import Failed, Request, Result
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import ModelInfo


def exchange(worker: Worker, *tasks: Task, seconds: float = 60.0) -> WorkerStatus:
    """One exchange, as a driver has it."""
    return pickle.loads(worker.exchange(pickle.dumps(list(tasks)), seconds))


def reports_of(worker: Worker, *tasks: Task, count: int = 1) -> list[UnitReport]:
    """Hand over tasks and exchange until so many reports are there."""
    reports = exchange(worker, *tasks, seconds=0.0).reports
    while len(reports) < count:
        reports += exchange(worker).reports
    return reports


class Gate:
    """Stands before a call: says that it was reached and waits to be opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60), "the gate was never opened"


class GatedPipeline(AroundWan):
    """A `Wan` that calls `before` ahead of every unit, `between` after every image, and notes its threads."""

    def __init__(self, before: Callable[[], None] = lambda: None, between: Callable[[], None] = lambda: None):
        self._before, self._between = before, between
        self.threads: set[int] = set()

    def load(self, model: ModelInfo, device: str, dtype: str, slots: int) -> GatedPipeline:
        """What the worker is given to load its pipeline with."""
        self.threads.add(threading.get_ident())
        self.wan = Wan.load(model, device, dtype, slots)
        return self

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        self.threads.add(threading.get_ident())
        self._before()
        for outcome in self.wan.generate(requests):
            yield outcome
            self._between()
