"""What happens to units: handed out, published, tried again, halved, quarantined.

A unit whose worker dies or hangs is tried again, then halved until the row that does it stands alone, and that row
is quarantined; `backlog.py` says when. An exception of our own code is never retried.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from wanbatch.jobs.driver.deadlines import Deadlines
from wanbatch.jobs.driver.retry_policy import UnitQueue
from wanbatch.jobs.driver.worker_pool import Event, Unit, UnitFinished, UnitLost, WorkerPool, WorkerReady
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.reporting.progress import Progress
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import Failure

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up. unit_seconds: on one unit; None: by the measured speed. failures: quarantined in this run."""

    unit_seconds: float | None = None
    failures: int | None = None


class Dispatcher:
    """Units that wait, are in hand and come back.

    run_token: letters and digits, another one for each run, so that what an earlier run's workers still write
    cannot be taken for this one's.
    again: ids that are made again although they are made or quarantined.
    log_prompts: the log has the prompts of rows that are quarantined, too.
    """

    def __init__(
        self,
        plan: Plan,
        folder: OutputFolder,
        log: RunLog,
        run_token: str,
        unit_rows: int,
        limits: Limits,
        again: Collection[str] = (),
        log_prompts: bool = False,
    ):
        self.plan, self.folder, self.log, self.run_token = plan, folder, log, run_token
        self.limits, self.log_prompts = limits, log_prompts
        done, kept = folder.committed(), frozenset(plan.ids()).difference(again)
        self.replacing = any(name in done.made for name in again)
        self.made = self.made_before = sum(1 for name in done.made if name in kept)
        self.quarantined = self.quarantined_before = sum(1 for name in done.failed if name in kept)
        finished = frozenset(done.made).union(done.failed).difference(again)
        proven = (place for place, name in enumerate(plan.ids()) if name in done.made and name in kept)
        self.backlog = UnitQueue(plan.units(unit_rows, finished), done.next_unit, next(proven, None))
        self.handed_out = 0
        self.dropped = 0  # images in the workers' hands when the run was stopped
        self.deadlines = Deadlines(plan.images, limits.unit_seconds)
        self.model_seconds = 0.0  # of the workers, in this run
        self.warm_up_seconds = 0.0  # of the worker that took longest
        self.ready_since: dict[int, float] = {}  # a worker's place -> monotonic

    def waiting_places(self) -> np.ndarray:
        """Places in the plan of the images that no worker has yet."""
        return np.concatenate([unit.places for unit in self.backlog.waiting])

    @property
    def model_busy(self) -> float | None:
        """The share of the time since each worker was first ready in which it had images in the model's hands."""
        seconds = sum(time.monotonic() - since for since in self.ready_since.values())
        return round(self.model_seconds / seconds, 4) if seconds else None

    @property
    def pending(self) -> int:
        """Images that are to be made and are neither made nor quarantined yet."""
        return len(self.plan) - self.made - self.quarantined

    @property
    def failures(self) -> dict[str, int]:
        """Error class -> quarantined images of this manifest."""
        ids, failed = frozenset(self.plan.ids()), self.folder.committed().failed
        return dict(sorted(Counter(kind for name, kind in failed.items() if name in ids).items()))

    @property
    def too_many_failures(self) -> bool:
        """Whether this run has quarantined more images than it may."""
        return self.limits.failures is not None and self.quarantined - self.quarantined_before > self.limits.failures

    def loop(self, crew: WorkerPool, show: Progress, stopped: Callable[[], bool]) -> None:
        """Until every unit is committed, too many images failed, or `stopped()`.

        What has come back by then is still taken.
        """
        while (self.backlog or crew.busy) and not stopped() and not self.too_many_failures:
            self._fill(crew)
            events = crew.poll(POLL_SECONDS)
            self._fill(crew)  # so that workers go on while this process verifies and commits
            crew.send()
            self.take(events)
            self.backlog.raise_if_too_many_losses(crew.size)
            show.update(self.made + crew.made_in_hand(), self.quarantined)
        self.take(crew.poll(0))
        self.dropped = crew.made_in_hand()
        show.update(self.made, self.quarantined)

    def _fill(self, crew: WorkerPool) -> None:
        """Hand out units: first to workers that have none."""
        units = [(place, self.backlog.for_idle(trusted)) for place, trusted in crew.idle()]
        self._hand_out(crew, [(place, unit) for place, unit in units if unit is not None])
        places = crew.with_room()
        self._hand_out(crew, list(zip(places, self.backlog.for_later(len(places)), strict=False)))

    def _hand_out(self, crew: WorkerPool, units: Sequence[tuple[int, Unit]]) -> None:
        """Give each place its unit."""
        if not units:
            return
        numbers = range(self.handed_out + 1, self.handed_out + 1 + len(units))
        self.handed_out += len(units)
        wanted = [
            (unit.number, unit.attempt, f"{self.run_token}-{number}", unit.places)
            for number, (_, unit) in zip(numbers, units, strict=True)
        ]
        for (place, unit), task in zip(units, self.plan.tasks(wanted), strict=True):
            crew.give(place, unit, task, self.deadlines.of(unit))

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
                self._put_back(event)

    def _publish(self, finished: list[UnitFinished]) -> None:
        """Commit what came back together, in one go; an attempt whose files are not whole is made again."""
        for control in [done for done in finished if done.unit.control]:
            self.folder.discard(control.report.attempt)
            self.backlog.finished(control.unit, len(control.report.attempt.made))
        finished = [done for done in finished if not done.unit.control]
        refused = self.folder.publish_many([done.report.attempt for done in finished], replace=self.replacing)
        broken = {id(refusal.attempt): refusal.error for refusal in refused}
        for done in finished:
            if (error := broken.get(id(done.report.attempt))) is not None:
                self.folder.discard(done.report.attempt)
                self._put_back(UnitLost(done.unit, done.worker, str(error), first=True))
            else:
                self._count(done)

    def _count(self, done: UnitFinished) -> None:
        attempt = done.report.attempt
        self.deadlines.measured(done.unit, len(attempt.made), done.report.busy_seconds)
        self.backlog.finished(done.unit, len(attempt.made))
        self.model_seconds += done.report.model_seconds
        self.made += len(attempt.made)
        self.quarantined += len(attempt.failed)
        self.log.write(
            "unit",
            unit=done.unit.number,
            attempt=done.unit.attempt,
            worker=done.worker,
            made=len(attempt.made),
            failed=len(attempt.failed),
            slots=done.report.slots,
            busy_seconds=round(done.report.busy_seconds, 4),
            model_seconds=round(done.report.model_seconds, 4),
        )
        self._log_quarantined(done.unit, attempt.failed)

    def _count_start(self, ready: WorkerReady) -> None:
        self.ready_since.setdefault(ready.worker, time.monotonic())
        self.warm_up_seconds = max(self.warm_up_seconds, ready.warm_up_seconds)
        self.log.write(
            "worker_ready",
            worker=ready.worker,
            load_seconds=round(ready.load_seconds, 3),
            warm_up_seconds=round(ready.warm_up_seconds, 3),
        )

    def _put_back(self, lost: UnitLost) -> None:
        if lost.first:
            rows = len(lost.unit.places)
            self.log.write("unit_lost", unit=lost.unit.number, worker=lost.worker, rows=rows, cause=lost.cause)
        if (condemned := self.backlog.put_back(lost)) is not None:
            self._quarantine(condemned, lost.cause)

    def _quarantine(self, unit: Unit, cause: str) -> None:
        """A row that takes its worker with it, by the driver's own attempt."""
        image = self.plan.task(unit.number, unit.attempt, "", unit.places).images[0]
        failure = Failure(
            id=image.id,
            manifest_row=image.manifest_row,
            stage="generate",
            error_class="worker_died",
            message=f"its worker was lost {unit.strikes} times with nothing else in hand: {cause}",
            attempts=unit.attempt - 1,
            unit=unit.number,
            time=datetime.now(UTC),
        )
        token = f"{self.run_token}-driver"
        attempt = write_attempt(self.folder.url, unit.number, token, None, [], [failure], {image.id: image.digest})
        self.folder.publish(attempt, replace=self.replacing)
        self.quarantined += 1
        self._log_quarantined(unit, attempt.failed)

    def _log_quarantined(self, unit: Unit, failed: Sequence[tuple[str, str]]) -> None:
        """Rows by id, error class and digest; by their prompts only if that was asked for."""
        images = self.plan.images.take(pa.array(unit.places)).select(["id", "digest", "prompt"]) if failed else None
        known = {row["id"]: row for row in images.to_pylist()} if images else {}
        for name, kind in failed:
            prompt = {"prompt": known[name]["prompt"]} if self.log_prompts else {}
            digest = known[name]["digest"]
            self.log.write("quarantined", unit=unit.number, id=name, error_class=kind, digest=digest, **prompt)
