"""What happens to units: handed out, published, tried again, halved, quarantined.

A unit whose worker dies or hangs is tried again, then halved until the row that does it stands alone, and that row
is quarantined; `retry_policy.py` says when. An exception of our own code is never retried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from wanbatch.jobs.driver.deadlines import Deadlines
from wanbatch.jobs.driver.events import Event, UnitFinished, UnitLost, WorkerReady
from wanbatch.jobs.driver.fingerprint import backends_in_environment
from wanbatch.jobs.driver.retry_policy import UnitQueue
from wanbatch.jobs.driver.run_counters import RunCounters
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.reporting.progress import Progress
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import Failure

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """How units are cut and when to give up.

    Attributes:
        run_token: letters and digits, another one for each run, so that what an earlier run's workers still write
            cannot be taken for this one's.
        unit_rows: images of a unit, at most.
        unit_seconds: how long a unit may take; None: as the measured speed says.
        max_failures: images that this run may quarantine before it stops; None: any number.
        again: ids that are made again although they are made or quarantined.
        log_prompts: the log has the prompts of rows that are quarantined, too.
    """

    run_token: str
    unit_rows: int
    unit_seconds: float | None = None
    max_failures: int | None = None
    again: Collection[str] = ()
    log_prompts: bool = False


class Dispatcher:
    """Hands out the units of a plan that are still to be made, and takes them back."""

    def __init__(self, plan: Plan, folder: OutputFolder, log: RunLog, options: DispatchOptions):
        """Cut what is still to be made into units."""
        self._plan, self._folder, self._log, self._options = plan, folder, log, options
        done, ids = folder.committed(), plan.ids()
        kept = frozenset(ids).difference(options.again)
        self._replace = any(name in done.made for name in options.again)
        self._counters = RunCounters(
            len(plan),
            sum(1 for name in done.made if name in kept),
            sum(1 for name in done.failed if name in kept),
        )
        finished = frozenset(done.made).union(done.failed).difference(options.again)
        made_images = (index for index, name in enumerate(ids) if name in done.made and name in kept)
        self._queue = UnitQueue(plan.units(options.unit_rows, finished), done.next_unit, next(made_images, None))
        self._deadlines = Deadlines(plan.images, options.unit_seconds)
        self._handed_out = 0
        self._dropped = 0

    @property
    def counters(self) -> RunCounters:
        """How far the run is."""
        return self._counters

    @property
    def dropped(self) -> int:
        """Images that were made in the workers' hands, not published, when the run was stopped."""
        return self._dropped

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
    def too_many_failures(self) -> bool:
        """Whether this run has quarantined more images than it may."""
        allowed = self._options.max_failures
        return allowed is not None and self._counters.quarantined_now > allowed

    def loop(self, pool: WorkerPool, progress: Progress, stopped: Callable[[], bool]) -> None:
        """Go on until every unit is committed, too many images failed, or `stopped()`.

        What has come back by then is still taken.
        """
        counters = self._counters
        while (self._queue or pool.busy) and not stopped() and not self.too_many_failures:
            self._fill(pool)
            events = pool.poll(POLL_SECONDS)
            self._fill(pool)  # so that workers go on while this process verifies and commits
            pool.send()
            self.take(events)
            self._queue.raise_if_too_many_losses(pool.size)
            progress.update(counters.made + pool.images_in_hand, counters.quarantined)
        self.take(pool.poll(0))
        self._dropped = pool.images_in_hand
        progress.update(counters.made, counters.quarantined)

    def take(self, events: Sequence[Event]) -> None:
        """Act on what has happened."""
        for event in events:
            if isinstance(event, WorkerReady):
                self._count_start(event)
        finished = [event for event in events if isinstance(event, UnitFinished)]
        if finished:
            self._publish(finished)
        for event in events:
            if isinstance(event, UnitLost):
                self._take_back(event)

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

    def _publish(self, finished: list[UnitFinished]) -> None:
        """Commit what came back together, in one go; an attempt whose files are not whole is made again."""
        for probe in [done for done in finished if done.unit.probe]:
            self._folder.discard(probe.report.attempt)
            self._queue.finished(probe.unit, len(probe.report.attempt.made))
        finished = [done for done in finished if not done.unit.probe]
        refused = self._folder.publish_many([done.report.attempt for done in finished], replace=self._replace)
        broken = {id(refusal.attempt): refusal.error for refusal in refused}
        for done in finished:
            if (error := broken.get(id(done.report.attempt))) is not None:
                self._folder.discard(done.report.attempt)
                self._take_back(UnitLost(done.unit, done.worker, str(error), blamed=True))
            else:
                self._count(done)

    def _count(self, done: UnitFinished) -> None:
        attempt = done.report.attempt
        self._deadlines.learn(done.unit, len(attempt.made), done.report.busy_seconds)
        self._queue.finished(done.unit, len(attempt.made))
        self._counters.unit_published(len(attempt.made), len(attempt.failed), done.report.model_seconds)
        self._log.write(
            "unit",
            unit=done.unit.number,
            attempt=done.unit.attempt,
            worker=done.worker,
            made=len(attempt.made),
            failed=len(attempt.failed),
            slots=done.report.slots,
            busy_seconds=round(done.report.busy_seconds, 4),
            model_seconds=round(done.report.model_seconds, 4),
            source_retries=done.report.source_retries,
        )
        self._log_quarantined(done.unit, attempt.failed)

    def _count_start(self, ready: WorkerReady) -> None:
        self._folder.record_environment(backends_in_environment(ready.backends))
        self._counters.worker_ready(ready.worker, ready.warm_up_seconds)
        self._log.write(
            "worker_ready",
            worker=ready.worker,
            load_seconds=round(ready.load_seconds, 3),
            warm_up_seconds=round(ready.warm_up_seconds, 3),
        )

    def _take_back(self, lost: UnitLost) -> None:
        if lost.blamed:
            self._log.write(
                "unit_lost", unit=lost.unit.number, worker=lost.worker, rows=lost.unit.size, cause=lost.cause
            )
        if (deadly := self._queue.take_back(lost)) is not None:
            self._quarantine(deadly, lost.cause)

    def _quarantine(self, unit: Unit, cause: str) -> None:
        """Quarantine a single row that its worker dies of, by an attempt that the driver writes."""
        image = self._plan.task(unit.number, unit.attempt, "", unit.indices).images[0]
        failure = Failure(
            id=image.id,
            manifest_row=image.manifest_row,
            stage="generate",
            error_class="worker_died",
            message=f"its worker process died {unit.deaths_alone} times while making only this row: {cause}",
            attempts=unit.attempt - 1,
            unit=unit.number,
            time=datetime.now(UTC),
        )
        token = f"{self._options.run_token}-driver"
        attempt = write_attempt(self._folder.url, unit.number, token, None, [], [failure], {image.id: image.digest})
        self._folder.publish(attempt, replace=self._replace)
        self._counters.unit_published(made=0, quarantined=1)
        self._log_quarantined(unit, attempt.failed)

    def _log_quarantined(self, unit: Unit, failed: Sequence[tuple[str, str]]) -> None:
        """Rows by id, error class and digest; by their prompts only if that was asked for."""
        images = self._plan.images.take(pa.array(unit.indices)).select(["id", "digest", "prompt"]) if failed else None
        known = {row["id"]: row for row in images.to_pylist()} if images else {}
        for name, kind in failed:
            prompt = {"prompt": known[name]["prompt"]} if self._options.log_prompts else {}
            digest = known[name]["digest"]
            self._log.write("quarantined", unit=unit.number, id=name, error_class=kind, digest=digest, **prompt)
