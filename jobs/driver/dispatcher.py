"""What happens to units: handed out, taken in, tried again, halved, quarantined.

A unit whose worker dies or hangs is tried again, then halved until the row that does it stands alone, and that row
is quarantined; `retry_policy.py` says when. An exception of our own code is never retried. What is committed, and
what is held back, is `intake.py`'s to decide.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanbatch.jobs.driver.circuit_breaker import CircuitBreaker
from wanbatch.jobs.driver.deadlines import Deadlines
from wanbatch.jobs.driver.events import (
    Event,
    NodeLost,
    NodeRefused,
    UnitFinished,
    UnitLost,
    WorkerReady,
    WorkersChanged,
)
from wanbatch.jobs.driver.fingerprint import backends_in_environment
from wanbatch.jobs.driver.intake import DamagedAttempt, Intake
from wanbatch.jobs.driver.retry_policy import UnitQueue
from wanbatch.jobs.driver.run_counters import RunCounters
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.run_units import units_of_run
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.planning.workload import workload_of
from wanbatch.jobs.reporting.progress import Progress
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.reporting.summary import CIRCUIT_BREAKER, MAX_FAILURES
from wanbatch.manifests.dataset.folder import OutputFolder

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
WRITING_SHARE, WRITING_SECONDS = 0.3, 10.0  # of a drain, whichever is less, are kept for writing what was made


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """How units are cut and when to give up.

    Attributes:
        run_token: letters and digits, another one for each run, so that what an earlier run's workers still write
            cannot be taken for this one's.
        unit_rows: images of a unit, at most.
        slots: rows that are denoised together.
        workers: at most so many.
        unit_seconds: how long a unit may take; None: as the measured speed says.
        max_failures: images that this run may quarantine before it stops; None: any number.
        circuit_breaker: the run stops, too, when images fail alike for a common cause.
        drain_seconds: how long workers may go on with what they hold when the run is asked to stop.
        again: ids that are made again although they are made or quarantined.
        log_prompts: the log has the prompts of rows that are quarantined, too.
    """

    run_token: str
    unit_rows: int
    slots: int
    workers: int = 1
    unit_seconds: float | None = None
    max_failures: int | None = None
    circuit_breaker: bool = True
    drain_seconds: float = 0.0
    again: Collection[str] = ()
    log_prompts: bool = False


class Dispatcher:
    """Hands out the units of a plan that are still to be made, and takes them back."""

    def __init__(self, plan: Plan, folder: OutputFolder, log: RunLog, options: DispatchOptions):
        """Cut what is still to be made into units."""
        self._plan, self._folder, self._log, self._options = plan, folder, log, options
        done, ids = folder.committed(), plan.ids()
        kept = frozenset(ids).difference(options.again)
        made_before = sum(1 for name in done.made if name in kept)
        self._counters = counters = RunCounters(
            len(plan), made_before, sum(1 for name in done.failed if name in kept)
        )
        finished = frozenset(done.made).union(done.failed).difference(options.again)
        units = units_of_run(plan, finished, options.workers, options.slots, options.unit_rows)
        made_images = (index for index, name in enumerate(ids) if name in done.made and name in kept)
        self._queue = UnitQueue(units, done.next_unit, next(made_images, None))
        self._deadlines = Deadlines(workload_of(plan), ids, options.slots, options.unit_seconds)
        breaker = CircuitBreaker(counters.pending, made_before, options.circuit_breaker)
        replace = any(name in done.made for name in options.again)
        self._intake = Intake(plan, folder, log, counters, breaker, self._deadlines, replace, options.log_prompts)
        self._handed_out = 0
        self._dropped = self._drained = 0

    @property
    def counters(self) -> RunCounters:
        """How far the run is."""
        return self._counters

    @property
    def dropped(self) -> int:
        """Images that were made and not committed when the run was stopped."""
        return self._dropped + self._intake.dropped

    @property
    def drained(self) -> int:
        """Images that were committed after the run was asked to stop."""
        return self._drained

    @property
    def waiting_units(self) -> Sequence[Unit]:
        """The units that no worker has had yet, in the order in which they are handed out."""
        return self._queue.waiting

    @property
    def waiting_images(self) -> np.ndarray:
        """Indices, in the plan, of the images that no worker has had yet."""
        return np.concatenate([unit.indices for unit in self._queue.waiting])

    @property
    def failures(self) -> dict[str, int]:
        """Error class -> quarantined images of this manifest."""
        ids, failed = frozenset(self._plan.ids()), self._folder.committed().failed
        return dict(sorted(Counter(kind for name, kind in failed.items() if name in ids).items()))

    @property
    def stop_cause(self) -> str | None:
        """Why the circuit is open, with what to do; None while it is closed."""
        return self._intake.stop_cause

    @property
    def stopped_by(self) -> str | None:
        """What has stopped the run before everything was made, of `reporting/summary.py`; None: nothing."""
        if self.stop_cause is not None:
            return CIRCUIT_BREAKER
        allowed, failed = self._options.max_failures, self._counters.quarantined_now + self._intake.failures_held_back
        return MAX_FAILURES if allowed is not None and failed > allowed and self._counters.pending else None

    def loop(self, pool: WorkerPool, progress: Progress, stopped: Callable[[], bool]) -> None:
        """Go on until every unit is committed, too many images failed, or `stopped()`.

        What has come back by then is still taken. When the run is stopped, workers may go on for a while with what
        they hold.
        """
        counters = self._counters
        while not stopped() and not self.stopped_by:
            if not (self._queue or pool.busy):
                self._make_again(self._intake.settle(interrupted=False))
                if not self._queue:
                    break
            self._fill(pool)
            events = pool.poll(POLL_SECONDS)
            self._fill(pool)  # so that workers go on while this process verifies and commits
            pool.send()
            self.take(events, progress)
            self._queue.raise_if_too_many_losses(pool.size)
            progress.update(counters.made + pool.images_in_hand, counters.quarantined)
        if stopped() and pool.busy:
            self._drain(pool, progress)
        self.take(pool.poll(0))
        self._intake.settle(interrupted=bool(stopped() and (self._queue or pool.busy)))
        self._dropped = pool.images_in_hand
        progress.update(counters.made, counters.quarantined)

    def take(self, events: Sequence[Event], progress: Progress | None = None) -> None:
        """Act on what has happened. progress: told of how many workers there are."""
        for event in events:
            self._note(event, progress)
        finished = [event for event in events if isinstance(event, UnitFinished)]
        for done in finished:
            self._queue.finished(done.unit, len(done.made))
            if done.unit.probe and done.report.attempt is not None:
                self._folder.discard(done.report.attempt)
        self._make_again(self._intake.take([done for done in finished if not done.unit.probe]))
        for event in events:
            if isinstance(event, UnitLost):
                self._take_back(event)

    def _note(self, event: Event, progress: Progress | None) -> None:
        """Log what became of workers and nodes."""
        if isinstance(event, WorkerReady):
            self._count_start(event)
        elif isinstance(event, NodeLost):
            self._log.write("node_lost", worker=event.worker, host=event.host, node=event.node, cause=event.cause)
        elif isinstance(event, NodeRefused):
            self._log.write("node_refused", worker=event.worker, node=event.node, cause=str(event.error))
            _log.warning("a node gets no workers of this run: %s", event.error)
        elif isinstance(event, WorkersChanged):
            self._log.write("workers", wanted=event.wanted, placed=event.placed)
            if progress is not None:
                progress.workers(event.wanted, event.placed)

    def _drain(self, pool: WorkerPool, progress: Progress) -> None:
        """Let workers finish what they hold, or cut it off in time to write what is made of it."""
        counters, made = self._counters, self._counters.made
        end = time.monotonic() + self._options.drain_seconds
        writing = min(WRITING_SECONDS, WRITING_SHARE * self._options.drain_seconds)
        progress.stage("draining")
        while pool.busy and not self.stop_cause and (left := end - time.monotonic()) > 0:
            pool.stop_making_after(left - writing)
            self.take(pool.poll(min(POLL_SECONDS, left)))
            progress.update(counters.made + pool.images_in_hand, counters.quarantined)
        self._drained = counters.made - made

    def _fill(self, pool: WorkerPool) -> None:
        """Hand out units: first to workers that have none."""
        units = [(slot, self._queue.for_idle(trusted)) for slot, trusted in pool.idle()]
        self._hand_out(pool, [(slot, unit) for slot, unit in units if unit is not None])
        slots = pool.with_room()
        self._hand_out(pool, list(zip(slots, self._queue.for_busy(len(slots)), strict=False)))

    def _hand_out(self, pool: WorkerPool, units: Sequence[tuple[int, Unit]]) -> None:
        """Give the worker in each slot its unit."""
        if not units:
            return
        numbers = range(self._handed_out + 1, self._handed_out + 1 + len(units))
        self._handed_out += len(units)
        wanted = [
            (unit.number, unit.attempt, f"{self._options.run_token}-{number}", unit.indices)
            for number, (_, unit) in zip(numbers, units, strict=True)
        ]
        for (slot, unit), task in zip(units, self._plan.tasks(wanted), strict=True):
            pool.give(slot, unit, task, self._deadlines.seconds_for(unit))

    def _count_start(self, ready: WorkerReady) -> None:
        self._folder.record_environment(backends_in_environment(ready.backends))
        self._counters.worker_ready(ready.worker, ready.warm_up_seconds)
        self._log.write(
            "worker_ready",
            worker=ready.worker,
            host=ready.host,
            device=ready.device,
            **({"gpu": ready.gpu} if ready.gpu else {}),
            load_seconds=round(ready.load_seconds, 3),
            warm_up_seconds=round(ready.warm_up_seconds, 3),
            **ready.steps,
        )

    def note_start(self, steps: Mapping[str, Any]) -> None:
        """Log the steps from the command to the first worker that was ready, as `StartSteps.as_json` has them."""
        self._log.write("start", **steps)

    def _make_again(self, damaged: Sequence[DamagedAttempt]) -> None:
        """Queue units again whose files are not whole: that is no row's fault, and cannot go on for ever."""
        for one in damaged:
            unit, host = one.finished.unit, one.finished.report.host
            self._log.write("attempt_damaged", unit=unit.number, worker=one.finished.worker, cause=one.problem)
            self._queue.make_again(unit, f"{one.problem}; it was written by worker {one.finished.worker} on {host}")

    def _take_back(self, lost: UnitLost) -> None:
        if lost.blamed:
            with_node = {"with_node": True} if lost.with_node else {}
            fields = {"worker": lost.worker, "rows": lost.unit.size, "cause": lost.cause, **with_node}
            self._log.write("unit_lost", unit=lost.unit.number, **fields)
        if (deadly := self._queue.take_back(lost)) is not None:
            self._intake.quarantine(deadly, lost.cause, f"{self._options.run_token}-driver")
