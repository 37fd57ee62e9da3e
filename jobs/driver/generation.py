"""The part of a run in which workers make images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wanbatch.jobs.driver.dispatcher import POLL_SECONDS, Dispatcher
from wanbatch.jobs.driver.interruption import StopRequest, what_is_kept
from wanbatch.jobs.driver.progress_metrics import ProgressMetrics
from wanbatch.jobs.driver.ray_ahead import RayAhead
from wanbatch.jobs.driver.ray_session import workers_on_a_host
from wanbatch.jobs.driver.run_context import RunContext
from wanbatch.jobs.driver.stopwatch import Stopwatch
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.reporting.progress import MAKING, STARTING, Progress
from wanbatch.jobs.worker.context import LoadPipeline


@dataclass(frozen=True, slots=True)
class RunControls:
    """What watches a run and intervenes.

    Attributes:
        progress: makes what shows the progress, of (images in all, images done by earlier runs).
        load: what workers build their pipeline with, instead of `Wan.load`.
        stop: whether the run is to stop.
        stopwatch: told when a part of the command ends.
        ray: what workers run on, which may be starting.
    """

    progress: Callable[[int, int], Progress]
    load: LoadPipeline | None
    stop: StopRequest
    stopwatch: Stopwatch
    ray: RayAhead


def make_images(context: RunContext, out: str, dispatcher: Dispatcher, controls: RunControls) -> float | None:
    """Start Ray and the workers and make what is pending.

    Args:
        context: what the run is.
        out: the output folder, a path or URL.
        dispatcher: has the units.
        controls: what watches the run.

    Returns:
        The share of the time in which workers had images in the model; None if no worker became ready.

    Raises:
        MachineryError: Ray does not start or fails, or too many workers are lost.
        KeyboardInterrupt: The run was interrupted while it stopped; its message says what is kept.
    """
    plan, stop, stopwatch = context.plan, controls.stop, controls.stopwatch
    examples = plan.examples(dispatcher.waiting_images) if context.execution.compile else ()
    workers = min(context.workers, len(dispatcher.waiting_units))
    shown = controls.progress(len(plan), len(plan) - dispatcher.counters.pending)
    progress = ProgressMetrics(shown, len(plan), out)
    try:
        progress.stage(STARTING)
        with controls.ray.session(workers):
            stopwatch.steps.end("rest of Ray")
            on_host = workers_on_a_host(workers, context.execution.device)
            setup = context.worker_setup(out, examples, dispatcher.waiting_images, on_host)
            units = len(dispatcher.waiting_units)
            pool = WorkerPool(setup, workers, controls.load, placement=context.placement, most=units)
            try:
                _wait_until_ready(pool, dispatcher, progress, controls)
                stopwatch.lap("start")
                progress.stage(MAKING)
                progress.update(dispatcher.counters.made, dispatcher.counters.quarantined)
                dispatcher.loop(pool, progress, stop)
                stopwatch.lap("make")
                busy = dispatcher.counters.model_busy
                progress.stage("stopping" if stop() else "done")
            except KeyboardInterrupt:
                told, kept = what_is_kept(out, len(plan), dispatcher.counters, pool.images_in_hand)
                progress.update(kept, dispatcher.counters.quarantined)
                raise KeyboardInterrupt(told) from None
            finally:
                pool.close()
        stopwatch.lap("stop")
    finally:
        progress.close()
    return busy


def _wait_until_ready(pool: WorkerPool, dispatcher: Dispatcher, progress: Progress, controls: RunControls) -> None:
    """Wait for the first worker, or until the run is to stop, and log what took how long until then."""
    steps = controls.stopwatch.steps
    steps.end("workers asked for")
    placed = False
    while not (pool.any_ready or controls.stop()):
        dispatcher.take(pool.poll(POLL_SECONDS), progress)
        if pool.placed and not placed:
            placed = True
            steps.end("worker's process")
    steps.end("worker")
    if pool.any_ready:
        if controls.ray.seconds_to_start is not None:
            steps.beside("Ray", controls.ray.seconds_to_start)
        dispatcher.note_start(steps.as_json())
