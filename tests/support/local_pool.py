"""Workers in this process, for a dispatcher or a whole run: what a driver does with units, without Ray."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import fake_pipelines
import pytest
import torch

from wanbatch.jobs.driver import generation
from wanbatch.jobs.driver.dispatcher import Dispatcher, DispatchOptions
from wanbatch.jobs.driver.events import Event, UnitFinished, WorkerReady
from wanbatch.jobs.driver.ray_ahead import RayAhead
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.driver.units_in_hand import UnitsInHand
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.units import Task, Unit
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.context import LoadPipeline
from wanbatch.jobs.worker.messages import WorkerSetup, WorkerStatus
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.visibility import take_mark


class LocalSlot:
    """One worker, and the units that it holds."""

    def __init__(self, worker: Worker):
        self.worker, self.units, self.to_send = worker, UnitsInHand(), list[Task]()
        self.trusted = False

    def exchange(self, seconds: float, making_seconds: float | None) -> list[tuple[Unit, object]]:
        tasks, self.to_send = self.to_send, []
        status: WorkerStatus = pickle.loads(self.worker.exchange(pickle.dumps(tasks), seconds, making_seconds))
        finished = self.units.update(status, time.monotonic())
        self.trusted |= status.has_made
        return finished


class LocalPool:
    """As `WorkerPool`; most_in_hand is the largest number of units that a worker had."""

    def __init__(self, workers: Sequence[Worker]):
        self._slots = [LocalSlot(worker) for worker in workers]
        self._making_seconds: float | None = None
        self.most_in_hand = 0

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def busy(self) -> bool:
        return any(slot.units for slot in self._slots)

    @property
    def images_in_hand(self) -> int:
        return sum(slot.units.images_made for slot in self._slots)

    def idle(self) -> list[tuple[int, bool]]:
        return [(number, slot.trusted) for number, slot in enumerate(self._slots) if not slot.units]

    def with_room(self) -> list[int]:
        return [number for number, slot in enumerate(self._slots) if slot.trusted and slot.units.have_room]

    def give(self, number: int, unit: Unit, task: Task, deadline: float) -> None:
        slot = self._slots[number]
        slot.to_send.append(task)
        slot.units.add(unit, deadline, time.monotonic())
        self.most_in_hand = max(self.most_in_hand, slot.units.count)

    def stop_making_after(self, seconds: float) -> None:
        self._making_seconds = seconds

    def send(self) -> None:
        """Goes out with `poll`."""

    def poll(self, timeout: float) -> list[Event]:
        each = timeout / len(self._slots)
        return [
            UnitFinished(unit, number, report)
            for number, slot in enumerate(self._slots)
            if slot.units
            for unit, report in slot.exchange(each, self._making_seconds)
        ]


class NoProgress:
    def update(self, made: int, failed: int) -> None:
        pass

    def stage(self, name: str) -> None:
        pass


def run_locally(plan: Plan, setup: WorkerSetup, unit_rows: int, workers: int = 1) -> tuple[Dispatcher, LocalPool]:
    """Makes a plan's images into the folder that `setup` names."""
    made = [Worker(setup, f"worker-{number}") for number in range(workers)]
    with OutputFolder.open(Path(setup.out), {}) as folder:
        for worker in made:
            worker.ready()
        options = DispatchOptions("run", unit_rows=unit_rows, slots=setup.slots, workers=workers)
        dispatcher, pool = Dispatcher(plan, folder, RunLog(folder), options), LocalPool(made)
        dispatcher.loop(pool, NoProgress(), lambda: False)
    return dispatcher, pool


class WorkersHere(LocalPool):
    """In place of `WorkerPool` in a run. What a worker raises is raised; none is replaced."""

    def __init__(
        self,
        setup: WorkerSetup,
        count: int,
        load: LoadPipeline | None = None,
        placement: object = None,
        most: int | None = None,
    ):
        self._setup, self._workers = setup, [Worker(setup, f"worker-{number}", load) for number in range(count)]
        super().__init__(self._workers)
        self.any_ready, self.placed = False, count

    def poll(self, timeout: float) -> list[Event]:
        if self.any_ready:
            return super().poll(timeout)
        self.any_ready = True
        return [self._start(number, worker) for number, worker in enumerate(self._workers)]

    def _start(self, number: int, worker: Worker) -> WorkerReady:
        started = worker.ready()
        take_mark(self._setup.out, started.mark, started.host, patience=0.0)
        times = started.load_seconds, started.warm_up_seconds
        return WorkerReady(number, *times, started.backends, started.host, started.device, started.gpu, started.steps)

    def close(self) -> None:
        """Their threads wait for nothing more, and end with this process."""


@contextmanager
def without_ray() -> Iterator[None]:
    """Runs have their workers in this process, which has as many threads as before when they are done."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "WorkerPool", WorkersHere)
        patch.setattr(RayAhead, "start_for", lambda *given, **more: None)
        patch.setattr(RayAhead, "session", lambda *given: nullcontext())
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def run_without_ray(*given: object, load: LoadPipeline | None = fake_pipelines.load, **more: object) -> Summary:
    """As `run`, with workers in this process: in a tenth of the time. load: None: of the model, not without one."""
    with without_ray():
        return run(*given, load=load, **more)
