"""What happens to units: handed out, published, tried again, halved, quarantined.

A unit whose worker dies or hangs is tried once more, then halved until the row that does it stands alone; that
row is quarantined. An exception of our own code is never retried.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from wanbatch.errors import MachineryError
from wanbatch.jobs.crew import Crew, Event, Finished, Lost, Ready, Unit
from wanbatch.jobs.log import RunLog
from wanbatch.jobs.plan import Plan
from wanbatch.jobs.progress import Progress
from wanbatch.manifests.dataset import OutputFolder, write_attempt
from wanbatch.manifests.rows import Failure

MAX_ATTEMPTS = 2  # tries of a unit whose worker dies
MAX_LOSSES = 32  # units lost without one finished in between
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up. unit_seconds: on one unit; None: by the measured speed. failures: quarantined in this run."""

    unit_seconds: float | None = None
    failures: int | None = None


class Deadlines:
    """How long a unit may take: ten times what the slowest one so far would have needed.

    Work is counted in pixels times steps, so a unit of large pictures is not judged by small ones, and pictures
    that failed count for nothing. Until one is made there is nothing to measure by, and the first may compile.
    images: of the plan. fixed: seconds for every unit, instead.
    """

    FIRST, LEAST, MARGIN = 3600.0, 120.0, 10.0

    def __init__(self, images: pa.Table, fixed: float | None):
        width, height, steps = (images[name].to_numpy().astype(np.float64) for name in ("width", "height", "steps"))
        self.work = width * height * (steps + 1)  # one more for decoding
        self.fixed = fixed
        self.slowest = 0.0  # seconds for one step of one pixel

    def measured(self, unit: Unit, made: int, seconds: float) -> None:
        """Learn from a unit of which `made` images were made."""
        if made:
            self.slowest = max(self.slowest, seconds / (self._work(unit) * made / len(unit.places)))

    def of(self, unit: Unit) -> float:
        """Seconds."""
        if self.fixed is not None:
            return self.fixed
        return max(self.LEAST, self.MARGIN * self.slowest * self._work(unit)) if self.slowest else self.FIRST

    def _work(self, unit: Unit) -> float:
        return float(self.work[unit.places].sum())


class Dispatch:
    """Units that wait, are in hand and come back.

    run_token: letters and digits, another one for each run, so that what an earlier run's workers still write
    cannot be taken for this one's.
    again: ids that are made again although they are made or quarantined.
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
    ):
        self.plan, self.folder, self.log, self.run_token = plan, folder, log, run_token
        self.limits = limits
        done, kept = folder.committed(), frozenset(plan.ids()).difference(again)
        self.replacing = any(name in done.made for name in again)
        self.made = self.made_before = sum(1 for name in done.made if name in kept)
        self.quarantined = self.quarantined_before = sum(1 for name in done.failed if name in kept)
        self.next_number = done.next_unit
        finished = frozenset(done.made).union(done.failed).difference(again)
        self.waiting = deque(Unit(self._number(), places) for places in plan.units(unit_rows, finished))
        self.deadlines = Deadlines(plan.images, limits.unit_seconds)
        self.losses = 0
        self.model_seconds = 0.0  # of the workers, in this run
        self.warm_up_seconds = 0.0  # of the worker that took longest
        self.ready_since: dict[int, float] = {}  # a worker's place -> monotonic

    def waiting_places(self) -> np.ndarray:
        """Places in the plan of the images that no worker has yet."""
        return np.concatenate([unit.places for unit in self.waiting])

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

    def loop(self, crew: Crew, show: Progress, stopped: Callable[[], bool]) -> None:
        """Until every unit is committed, too many images failed, or `stopped()`.

        What has come back by then is still taken.
        """
        while (self.waiting or crew.busy) and not stopped() and not self.too_many_failures:
            while self.waiting and (place := crew.place_for(self.waiting[0])) is not None:
                self._hand_out(crew, place, self.waiting.popleft())
            self.take(crew.poll(POLL_SECONDS))
            show.update(self.made + crew.made_in_hand(), self.quarantined)
        self.take(crew.poll(0))
        show.update(self.made, self.quarantined)

    def _hand_out(self, crew: Crew, place: int, unit: Unit) -> None:
        token = f"{self.run_token}-{unit.attempt}"
        task = self.plan.task(unit.number, unit.attempt, token, unit.places)
        crew.give(place, unit, task, self.deadlines.of(unit))

    def take(self, events: Sequence[Event]) -> None:
        """Act on what has happened."""
        for event in events:
            if isinstance(event, Ready):
                self._count_start(event)
        finished = [event for event in events if isinstance(event, Finished)]
        if finished:
            self._publish(finished)
        for event in reversed(events):  # what is put back in front comes out in its old order
            if isinstance(event, Lost):
                self._put_back(event)

    def _publish(self, finished: list[Finished]) -> None:
        """Commit what came back together, in one go; an attempt whose files are not whole is made again."""
        refused = self.folder.publish_many([done.report.attempt for done in finished], replace=self.replacing)
        broken = {id(refusal.attempt): refusal.error for refusal in refused}
        for done in finished:
            if (error := broken.get(id(done.report.attempt))) is not None:
                self.folder.discard(done.report.attempt)
                self._put_back(Lost(done.unit, done.worker, str(error), working=True))
            else:
                self._count(done)

    def _count(self, done: Finished) -> None:
        attempt = done.report.attempt
        self.deadlines.measured(done.unit, len(attempt.made), done.report.busy_seconds)
        self.losses = 0
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

    def _count_start(self, ready: Ready) -> None:
        self.ready_since.setdefault(ready.worker, time.monotonic())
        self.warm_up_seconds = max(self.warm_up_seconds, ready.warm_up_seconds)
        self.log.write(
            "worker_ready",
            worker=ready.worker,
            load_seconds=round(ready.load_seconds, 3),
            warm_up_seconds=round(ready.warm_up_seconds, 3),
        )

    def _put_back(self, lost: Lost) -> None:
        if not lost.working:
            self.waiting.appendleft(lost.unit)
            return
        self.losses += 1
        self.log.write("unit_lost", unit=lost.unit.number, worker=lost.worker, cause=lost.cause)
        if self.losses > MAX_LOSSES:
            raise MachineryError(f"{self.losses} workers were lost one after the other; the last: {lost.cause}")
        if lost.unit.attempt < MAX_ATTEMPTS:
            self.waiting.appendleft(replace(lost.unit, attempt=lost.unit.attempt + 1))
        elif len(lost.unit.places) > 1:
            middle = len(lost.unit.places) // 2
            for places in (lost.unit.places[middle:], lost.unit.places[:middle]):
                self.waiting.appendleft(Unit(self._number(), places))
        else:
            self._quarantine(lost.unit, lost.cause)

    def _quarantine(self, unit: Unit, cause: str) -> None:
        """A row that takes its worker with it, by the driver's own attempt."""
        image = self.plan.task(unit.number, unit.attempt, "", unit.places).images[0]
        failure = Failure(
            id=image.id,
            manifest_row=image.manifest_row,
            stage="generate",
            error_class="worker_died",
            message=f"its worker was lost {unit.attempt} times: {cause}",
            attempts=unit.attempt,
            unit=unit.number,
            time=datetime.now(UTC),
        )
        token = f"{self.run_token}-{unit.attempt}-driver"
        attempt = write_attempt(self.folder.path, unit.number, token, None, [], [failure], {image.id: image.digest})
        self.folder.publish(attempt, replace=self.replacing)
        self.quarantined += 1
        self.log.write("quarantined", unit=unit.number, id=image.id, error_class="worker_died")

    def _number(self) -> int:
        self.next_number += 1
        return self.next_number - 1
