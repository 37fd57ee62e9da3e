"""One worker: a pipeline on one device that turns tasks into written attempts.

A task goes through three stages, each of which has a thread of its own (`line.py`): while the model makes one
task's pictures, the sources of the next are read and the last one's attempt is written. A driver speaks to it by one
call, `exchange`, which hands over tasks and brings back what has become of earlier ones.

It never publishes: that is the driver's. A row that cannot be made becomes a failure record and the others go
on; an exception of the pipeline is narrowed down to its row by trying halves (`work.py`).
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from wanbatch.errors import DeviceError, UserError
from wanbatch.jobs.planning.plan import Image, Task
from wanbatch.jobs.worker.stage_threads import StagePipeline
from wanbatch.jobs.worker.unit_task import PipelineFailure, UnitTask, blank_request
from wanbatch.manifests import records
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.part_files import Attempt
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime

if TYPE_CHECKING:
    from wanbatch.pipeline.generate import Wan

MAX_ENCODERS = 8  # threads that encode pictures, of a worker on a GPU


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is started with.

    device, dtype: resolved. threads: of torch, on a CPU. examples: images like those that will come; what they need
    is compiled before the first unit.
    """

    model: ModelInfo
    out: str
    source_root: str
    allow_http: bool
    device: str
    dtype: str
    slots: int
    threads: int
    format: ImageFormat = field(default_factory=ImageFormat)
    runtime: Runtime = field(default_factory=Runtime)
    examples: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """How long a worker took to be ready. warm_up_seconds: for compiling."""

    load_seconds: float
    warm_up_seconds: float


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What a worker says of a finished task.

    busy_seconds: that its stages worked on it, added up; what they waited for each other does not count, and what
        ran beside other tasks' stages does. model_seconds: the part of these in which it had the model.
    """

    attempt: Attempt
    busy_seconds: float
    model_seconds: float
    slots: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker tells its driver.

    reports: of tasks that are finished, in the order in which they were handed over. made: how many of the others,
    the first ones, are made and being written. making: (unit that has the model, its images that are made or have
    failed).
    """

    reports: list[UnitReport]
    made: int
    making: tuple[int, int]


class Worker:
    """Holds one pipeline. `ready` comes first, then `exchange` again and again: one call at a time.

    load: builds the pipeline, instead of `Wan.load`; for tests of faults.
    """

    def __init__(self, setup: WorkerSetup, name: str, load: Callable[..., Wan] | None = None):
        self.setup, self.name, self.load = setup, name, load
        self.making = (-1, 0)
        self.line = StagePipeline(self.prepare, self.make, self.finish)

    def ready(self) -> Started:
        """Load the model and warm it up. Not in `__init__`, so that its errors keep their type.

        In the thread that will make: what a compiler or a graph keeps may be tied to it.
        """
        return self.line.call_in_making(self.start)

    def exchange(self, tasks: bytes, patience: float) -> bytes:
        """Take a pickled list of tasks and tell, pickled, what there is to tell; Ray takes half the time for bytes.

        Waits for something to tell, at most `patience` seconds. Raises what a stage of a task raised.
        """
        for task in pickle.loads(tasks):
            self.line.put(task)
        news = self.line.news(patience)
        return pickle.dumps(WorkerStatus(news.finished, news.made, self.making), protocol=5)

    def start(self) -> Started:
        """What `ready` does."""
        setup, begin = self.setup, time.perf_counter()
        self.sources = SourceLoader(setup.source_root, allow_http=setup.allow_http)
        pa.array([0])  # imports pandas where there is one; not while the first unit is made
        self.encoders = ThreadPoolExecutor(_encoders(setup.device), "encode")
        load = self.load or partial(_load, runtime=setup.runtime)
        self.wan = load(setup.model, setup.device, setup.dtype, setup.slots)
        if setup.threads and "torch" in sys.modules:  # what `load` builds may do without
            sys.modules["torch"].set_num_threads(setup.threads)
        self.backends = records.Backends(**self.wan.backends)
        self.host = socket.gethostname()
        self.device = sys.modules["torch"].cuda.get_device_name() if setup.device == "cuda" else "cpu"
        return Started(time.perf_counter() - begin, self._warm_up() if setup.examples else 0.0)

    def prepare(self, task: Task) -> UnitTask:
        """First stage: read a task's sources and fit them to their sizes."""
        work = UnitTask(self, task)
        work.load_sources()
        return work

    def make(self, work: UnitTask) -> None:
        """Second stage: make its images."""
        self.making = work.task.unit, 0
        work.generate()

    def finish(self, work: UnitTask) -> UnitReport:
        """Third stage: write them as an attempt."""
        attempt = work.write()
        return UnitReport(attempt, work.busy_seconds, work.model_seconds, work.slots)

    def run(self, task: Task) -> UnitReport:
        """All three stages, one after the other, in this thread."""
        work = self.prepare(task)
        self.make(work)
        return self.finish(work)

    def halve_slots(self) -> bool:
        """Go on with half the rows in a batch, from now on. False if there is only one."""
        import torch

        if self.wan.slots == 1:
            return False
        if self.setup.device == "cuda":
            torch.cuda.empty_cache()
        self.wan.use_slots(self.wan.slots // 2)
        return True

    def _warm_up(self) -> float:
        """Seconds. Raises DeviceError, and UserError if the model cannot be compiled."""
        try:
            return self.wan.warm_up([blank_request(image) for image in self.setup.examples])
        except Exception as error:  # noqa: BLE001  whatever a compiler may raise
            trouble = PipelineFailure.of(error)
        if trouble.memory and self.halve_slots():
            return self._warm_up()
        if trouble.device:
            raise DeviceError(trouble.message)
        raise UserError(f"the model cannot be warmed up ({trouble.message}); with --compile never it is not compiled")


def _load(model: ModelInfo, device: str, dtype: str, slots: int, runtime: Runtime) -> Wan:
    from wanbatch.pipeline.generate import Wan

    return Wan.load(model, device, dtype, slots, runtime)


def _encoders(device: str) -> int:
    """Threads that encode pictures: one beside a model on the CPU, a GPU's share of the cores beside one there."""
    if device == "cpu":
        return 1
    import torch

    return max(1, min(MAX_ENCODERS, (os.cpu_count() or 1) // torch.cuda.device_count() - 2))
