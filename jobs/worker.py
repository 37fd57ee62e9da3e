"""One worker: a pipeline on one device that turns tasks into written attempts.

A task goes through three stages, each of which has a thread of its own and takes one task at a time: while the
model makes one task's pictures, the sources of the next are read and the last one's attempt is written.

It never publishes: that is the driver's. A row that cannot be made becomes a failure record and the others go
on; an exception of the pipeline is narrowed down to its row by trying halves (`work.py`).
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from wanbatch.errors import DeviceError, UserError
from wanbatch.jobs.plan import Image, Task
from wanbatch.jobs.work import Trouble, Work, blank_request
from wanbatch.manifests import rows
from wanbatch.manifests.dataset import Attempt
from wanbatch.manifests.encoding import ImageFormat
from wanbatch.manifests.sources import SourceLoader
from wanbatch.pipeline.models import ModelInfo
from wanbatch.pipeline.runtime import Runtime

if TYPE_CHECKING:
    from wanbatch.pipeline.generate import Wan

# Threads of a worker that is an actor: one for each stage of a task, one to answer.
THREADS = {"prepare": 1, "make": 1, "finish": 1, "progress": 1}
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
class Report:
    """What a worker says of a finished task.

    busy_seconds: that its stages worked on it, added up; what they waited for each other does not count, and what
        ran beside other tasks' stages does. model_seconds: the part of these in which it had the model.
    """

    attempt: Attempt
    busy_seconds: float
    model_seconds: float
    slots: int


class Worker:
    """Holds one pipeline. `ready` comes first, then `prepare`, `make` and `finish` of each task.

    Each stage waits for the one before it, so that the three of one task may be called at once, from three
    threads; each takes one call at a time. `ready` and `make` belong in the same thread: what a compiler or a
    graph keeps may be tied to it.
    load: builds the pipeline, instead of `Wan.load`; for tests of faults.
    """

    def __init__(self, setup: WorkerSetup, name: str, load: Callable[..., Wan] | None = None):
        self.setup, self.name, self.load = setup, name, load
        self.in_hand = (-1, 0)
        self._prepared, self._made = _Handover(), _Handover()

    def ready(self) -> Started:
        """Load the model and warm it up. Not in `__init__`, so that its errors keep their type."""
        setup, begin = self.setup, time.perf_counter()
        self.sources = SourceLoader(setup.source_root, allow_http=setup.allow_http)
        pa.array([0])  # imports pandas where there is one; not while the first unit is made
        self.encoders = ThreadPoolExecutor(_encoders(setup.device), "encode")
        load = self.load or partial(_load, runtime=setup.runtime)
        self.wan = load(setup.model, setup.device, setup.dtype, setup.slots)
        if setup.threads and "torch" in sys.modules:  # what `load` builds may do without
            sys.modules["torch"].set_num_threads(setup.threads)
        self.backends = rows.Backends(**self.wan.backends)
        self.host = socket.gethostname()
        self.device = sys.modules["torch"].cuda.get_device_name() if setup.device == "cuda" else "cpu"
        return Started(time.perf_counter() - begin, self._warm_up() if setup.examples else 0.0)

    def progress(self) -> tuple[int, int]:
        """(unit that has the model, its images that are made or have failed); may be asked while it runs."""
        return self.in_hand

    def prepare(self, task: Task) -> None:
        """First stage: read a task's sources and fit them to their sizes."""
        with self._prepared.given(task.unit) as given:
            work = Work(self, task)
            work.load_sources()
            given.set_result(work)

    def make(self, unit: int) -> None:
        """Second stage: make a unit's images."""
        with self._made.given(unit) as given:
            work = self._prepared.take(unit)
            self.in_hand = unit, 0
            work.generate()
            given.set_result(work)

    def finish(self, unit: int) -> Report:
        """Third stage: write them as an attempt."""
        work = self._made.take(unit)
        attempt = work.write()
        return Report(attempt, work.busy_seconds, work.model_seconds, work.slots)

    def run(self, task: Task) -> Report:
        """All three stages, one after the other."""
        self.prepare(task)
        self.make(task.unit)
        return self.finish(task.unit)

    def prepare_packed(self, task: bytes) -> None:
        """`prepare` of a pickled task: Ray takes half the time for bytes."""
        self.prepare(pickle.loads(task))

    def finish_packed(self, unit: int) -> bytes:
        """`finish`, with a pickled report."""
        return pickle.dumps(self.finish(unit), protocol=5)

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
            trouble = Trouble.of(error)
        if trouble.memory and self.halve_slots():
            return self._warm_up()
        if trouble.device:
            raise DeviceError(trouble.message)
        raise UserError(f"the model cannot be warmed up ({trouble.message}); with --compile never it is not compiled")


class _Handover:
    """Works on their way from one stage to the next, by their units. Either side may come first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[int, Future[Work]] = {}

    @contextmanager
    def given(self, unit: int) -> Iterator[Future[Work]]:
        """Where the earlier stage puts the work; what it raises reaches the later one too."""
        future = self._future(unit)
        try:
            yield future
        except BaseException as error:
            future.set_exception(error)
            raise

    def take(self, unit: int) -> Work:
        """Wait for the work. Raises what the earlier stage raised."""
        try:
            return self._future(unit).result()
        finally:
            with self._lock:
                self._futures.pop(unit, None)

    def _future(self, unit: int) -> Future[Work]:
        with self._lock:
            return self._futures.setdefault(unit, Future())


def _load(model: ModelInfo, device: str, dtype: str, slots: int, runtime: Runtime) -> Wan:
    from wanbatch.pipeline.generate import Wan

    return Wan.load(model, device, dtype, slots, runtime)


def _encoders(device: str) -> int:
    """Threads that encode pictures: one beside a model on the CPU, a GPU's share of the cores beside one there."""
    if device == "cpu":
        return 1
    import torch

    return max(1, min(MAX_ENCODERS, (os.cpu_count() or 1) // torch.cuda.device_count() - 2))
