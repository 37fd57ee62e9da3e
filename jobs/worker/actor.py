"""One worker: a pipeline on one device that turns tasks into written attempts.

A task goes through three stages, each of which has a thread of its own (`stage_threads.py`): while the model makes
one task's pictures, the sources of the next are read and the last one's attempt is written. A driver speaks to it by
one call, `exchange`, which hands over tasks and brings back what has become of earlier ones.

It never publishes: that is the driver's. A row that cannot be made becomes a failure record and the others go
on; an exception of the pipeline is narrowed down to its row by trying halves (`recovery.py`).
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from wanbatch.errors import DeviceError, NodeError, UserError
from wanbatch.jobs.planning.units import Task
from wanbatch.jobs.worker.adapter_files import adapters_here, fetch_adapters
from wanbatch.jobs.worker.context import ImagePipeline, LoadPipeline, WorkerContext
from wanbatch.jobs.worker.device_check import check_card, check_kind, cpu_kind, this_card
from wanbatch.jobs.worker.engine_use import engines_here
from wanbatch.jobs.worker.messages import Started, UnitReport, WorkerSetup, WorkerStatus
from wanbatch.jobs.worker.metrics import WorkerMetrics
from wanbatch.jobs.worker.model_files import local_model
from wanbatch.jobs.worker.recovery import PipelineFailure, halve_slots
from wanbatch.jobs.worker.requests import warm_up_request
from wanbatch.jobs.worker.stage_threads import StagePipeline
from wanbatch.jobs.worker.start_steps import StartSteps
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import ModelProgress, generate_units
from wanbatch.machine import usable_cores
from wanbatch.manifests import records
from wanbatch.manifests.dataset.content_credentials import Signer
from wanbatch.manifests.dataset.visibility import leave_mark
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.loading.registry import ModelInfo

if TYPE_CHECKING:
    from wanbatch.pipeline.sound.hearing import Hearing

MAX_ENCODERS = 8  # threads that encode pictures, of a worker on a GPU


class Worker:
    """Holds one pipeline. `ready` comes first, then `exchange` again and again: one call at a time."""

    def __init__(self, setup: WorkerSetup, name: str, load: LoadPipeline | None = None):
        """Prepare a worker that has no model yet.

        Args:
            setup: what it works on, and how.
            name: its name in timings.
            load: builds the pipeline, instead of `Wan.load`; for tests of faults.
        """
        self._steps = StartSteps()
        self._steps.end("process and imports")
        self._setup, self._name = setup, name
        self._load = load
        self._context: WorkerContext  # from `ready` on
        self._in_model = ModelProgress()
        self._stop_at = math.inf  # monotonic: when the last image may be made
        self._stages: StagePipeline[Task, UnitTask, UnitReport] = StagePipeline(
            self._prepare, self._generate, self._write
        )
        self._metrics: WorkerMetrics  # from `ready` on

    def ready(self) -> Started:
        """Load the model and warm it up. Not in `__init__`, so that its errors keep their type.

        In the thread that has the model later: what a compiler or a graph keeps may be tied to it.
        """
        return self._stages.call_in_model_thread(self._start)

    def exchange(self, tasks: bytes, seconds: float, making_seconds: float | None = None) -> bytes:
        """Take tasks and say what has become of earlier ones.

        Both are pickled here: Ray takes half the time for bytes.

        Args:
            tasks: a pickled list of `Task`.
            seconds: how long to wait, at most, for something to report.
            making_seconds: how long images may still be made, as the run stops; after that, what is made is
                written. None: without end.

        Returns:
            A pickled `WorkerStatus`.

        Raises what a stage of a task raised, once everything before that task is reported.
        """
        if making_seconds is not None:
            self._stop_at = min(self._stop_at, time.monotonic() + making_seconds)
        for task in pickle.loads(tasks):
            self._stages.submit(task)
        status = self._stages.wait_for_status(seconds)
        slots = self._context.pipeline.slots
        self._metrics.slots(min(slots, self._in_model.waiting), slots)
        model = self._in_model
        told = WorkerStatus(status.finished, status.generated, model.oldest, status.entered, model.has_made)
        return pickle.dumps(told, protocol=5)

    def _prepare(self, task: Task) -> UnitTask:
        unit = UnitTask(self._context, task, partial(self._note_progress, len(task.images)), self._stops)
        unit.load_sources()
        return unit

    def _generate(
        self, unit: UnitTask, follow: Callable[[], UnitTask | None], left: Callable[[UnitTask], None]
    ) -> None:
        def leave(unit: UnitTask) -> None:
            self._in_model.left(unit.task.unit)
            left(unit)

        generate_units(unit, follow, leave)

    def _write(self, unit: UnitTask) -> UnitReport:
        report = unit.write()
        self._metrics.unit_finished(unit.stage_seconds(), report.model_seconds)
        return report

    def _stops(self) -> bool:
        return time.monotonic() >= self._stop_at

    def _note_progress(self, size: int, unit: int, done: int, made: int) -> None:
        self._in_model.note(unit, size, done, made)

    def _start(self) -> Started:
        host, begin, steps = socket.gethostname(), time.perf_counter(), self._steps
        steps.end("wait")
        mark = leave_mark(self._setup.out, host)
        _require_seen(self._setup.seen_source, host)
        self._setup = setup = self._checked(host)
        steps.end("device")  # and the import of torch for it
        signer = None if setup.signing is None else Signer(setup.signing)
        sources = SourceLoader(setup.source_root, allow_http=setup.allow_http, fence=setup.source_fence)
        pa.array([0])  # imports pandas where there is one; not while the first unit is made
        encoders = ThreadPoolExecutor(encoder_threads(setup.device, usable_cores(), setup.workers_on_host), "encode")
        engines = None if setup.engines is None else engines_here(setup, setup.engines, host)
        load = self._load or partial(_load_wan, setup=setup, steps=steps)
        steps.end("sources and engines")
        pipeline = load(setup.model, setup.device, setup.dtype, setup.slots)
        steps.end("load")
        _use_threads(setup.threads)
        if setup.device == "cpu" and (kind := cpu_kind()) is not None:
            check_kind(kind, setup, host)
        if engines is not None:
            engines.use_in(pipeline)
        self._context = WorkerContext(
            setup=setup,
            name=self._name,
            host=host,
            device=sys.modules["torch"].cuda.get_device_name() if setup.device == "cuda" else "cpu",
            pipeline=pipeline,
            backends=records.Backends(**pipeline.backends),
            sources=sources,
            encoders=encoders,
            signer=signer,
            hearing=self._hearing(),
        )
        self._metrics = WorkerMetrics(host, self._context.device, self._name)
        load_seconds = time.perf_counter() - begin
        steps.end("use")
        warm_up_seconds = _warm_up(pipeline, setup) if setup.examples else 0.0
        steps.end("warm-up")
        _leave_alone_what_is_there()
        seconds, device = (load_seconds, warm_up_seconds), self._context.device
        return Started(*seconds, dict(pipeline.backends), host, mark, device, _own_gpu(setup), steps.as_json())

    def _hearing(self) -> Hearing | None:
        config = self._setup.hearing
        if config is None:
            return None
        from wanbatch.pipeline.sound.hearing import load_hearing

        return load_hearing(config, self._setup.model.folder)

    def _checked(self, host: str) -> WorkerSetup:
        """The setup with the model's files on this host, if its device can run the model."""
        setup = self._setup
        fetched = fetch_adapters(setup.adapters, host)
        if setup.on_cluster:
            setup = replace(setup, model=local_model(setup.model, setup.model_cache, host))
        if setup.device == "cuda":
            check_card(this_card(), setup, host)
        return replace(setup, adapters=adapters_here(setup.adapters, fetched, setup.model, host))


def _leave_alone_what_is_there() -> None:
    """Take modules and model out of the search for garbage, which otherwise stops all threads for a tenth of a second
    now and then to find that they are still used: long enough for a GPU to have nothing left to do.

    In a process that is a worker and nothing else, as those are that have preloaded.
    """
    if "wanbatch.jobs.worker.preload" in sys.modules:
        gc.collect()
        gc.freeze()


def _use_threads(count: int) -> None:
    """Let torch have so many threads, if it is there: what tests load may do without."""
    if count and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _own_gpu(setup: WorkerSetup) -> str:
    """Which GPU of its host this process has; empty without one."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "") if setup.device == "cuda" else ""


def _require_seen(source: str | None, host: str) -> None:
    """Raises NodeError if a source file that the driver sees is not seen here."""
    try:
        if source is not None:
            os.stat(source)
    except OSError as error:
        raise NodeError(
            f"host {host}: cannot see the source image {source} ({error.strerror or error}), which the host of this "
            "command sees: share the folder of the sources with every host that has workers, or put them into an "
            "object store (s3://...)"
        ) from error


def _warm_up(pipeline: ImagePipeline, setup: WorkerSetup) -> float:
    """Seconds. Raises DeviceError, and UserError if the model cannot be compiled."""
    try:
        return pipeline.warm_up([warm_up_request(image) for image in setup.examples])
    except Exception as error:  # noqa: BLE001  whatever a compiler may raise
        failure = PipelineFailure.of(error)
    if failure.out_of_memory and halve_slots(pipeline, setup.device):
        return _warm_up(pipeline, setup)
    if failure.device_broken:
        raise DeviceError(failure.message)
    raise UserError(f"the model cannot be warmed up ({failure.message}); with --compile never it is not compiled")


def _load_wan(
    model: ModelInfo, device: str, dtype: str, slots: int, setup: WorkerSetup, steps: StartSteps
) -> ImagePipeline:
    from wanbatch.pipeline.generate import Wan

    if device == "cpu":
        _use_threads(setup.threads)  # their number is part of how texts of the cache were encoded
    steps.end("pipeline's imports")
    merged = [(one.file, one.weight) for one in setup.adapters if one.merged]
    of_rows = {one.name: (one.file, one.weight) for one in setup.adapters if not one.merged}
    examples = None  # what runs in place of the model needs something else of a GPU
    if setup.engines is None:
        examples = [warm_up_request(image) for image in setup.examples]
    wan = Wan.load(model, device, dtype, slots, setup.runtime, merged, of_rows, examples)
    if wan.first_uses.made:
        steps.beside("first uses", wan.first_uses.seconds)
    return wan


def encoder_threads(device: str, cores: int, workers: int) -> int:
    """How many threads encode pictures: one beside a model on a CPU, else the worker's share of the host, less two.

    Args:
        device: `cuda` or `cpu`.
        cores: of the host that may be used.
        workers: that share them. The process of a worker sees one GPU alone, so it cannot count them itself.
    """
    return 1 if device == "cpu" else max(1, min(MAX_ENCODERS, cores // workers - 2))
