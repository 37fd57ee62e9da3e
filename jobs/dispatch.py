"""What happens to units: handed out, published, tried again, halved, quarantined.

A unit whose worker dies or hangs is tried again, by a worker that has nothing else in hand, then halved until the
row that does it stands alone, and that row is quarantined; `doubts.py` says when. An exception of our own code is
never retried.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from wanbatch.jobs.crew import IN_HAND, Crew, Finished, Lost, Unit
from wanbatch.jobs.deadlines import Deadlines
from wanbatch.jobs.doubts import ROW_TRIES, UNIT_TRIES, Doubts
from wanbatch.jobs.log import RunLog
from wanbatch.jobs.plan import Plan
from wanbatch.jobs.progress import Progress
from wanbatch.manifests.dataset import OutputFolder, write_attempt
from wanbatch.manifests.rows import Failure

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up. unit_seconds: on one unit; None: by the measured speed. failures: quarantined in this run."""

    unit_seconds: float | None = None
    failures: int | None = None


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
        self.suspects: deque[Unit] = deque()  # wait too
        self.handed_out = 0
        self.deadlines = Deadlines(plan.images, limits.unit_seconds)
        made = (place for place, name in enumerate(plan.ids()) if name in done.made and name in kept)
        self.doubts = Doubts(next(made, None))

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
        while self._work_left(crew) and not stopped() and not self.too_many_failures:
            for in_hand in range(IN_HAND):
                for place in crew.free(in_hand):
                    if (unit := self._next(crew, idle=in_hand == 0)) is not None:
                        self._hand_out(crew, place, unit)
            self._take(crew.poll(POLL_SECONDS))
            self.doubts.require_hope(crew.size)
            if self.doubts.hopeless and not self._others_left(crew):
                self._quarantine_condemned()
            show.update(self.made + crew.made_in_hand(), self.quarantined)
        self._take(crew.poll(0))
        show.update(self.made, self.quarantined)

    def _work_left(self, crew: Crew) -> bool:
        return bool(self.doubts.condemned) or self._others_left(crew)

    def _others_left(self, crew: Crew) -> bool:
        """Whether anything but condemned rows is left."""
        return bool(self.waiting or self.suspects) or crew.busy

    def _next(self, crew: Crew, idle: bool) -> Unit | None:
        """The unit to hand out. idle: to a worker that has none; only such a one gets suspects and controls."""
        if idle and self.doubts.wants_control(self._others_left(crew)):
            return self.doubts.new_control(self._number())
        known_to_work = self.doubts.proven is not None
        if idle and self.suspects and (known_to_work or not self.waiting):
            return self.suspects.popleft()
        return self.waiting.popleft() if self.waiting else None

    def _hand_out(self, crew: Crew, place: int, unit: Unit) -> None:
        self.handed_out += 1
        task = self.plan.task(unit.number, unit.attempt, f"{self.run_token}-{self.handed_out}", unit.places)
        crew.give(place, unit, task, self.deadlines.of(unit))

    def _take(self, events: list[Finished | Lost]) -> None:
        finished = [event for event in events if isinstance(event, Finished)]
        if finished:
            self._publish(finished)
        for event in events:
            if isinstance(event, Lost):
                self._put_back(event)

    def _publish(self, finished: list[Finished]) -> None:
        """Commit what came back together, in one go; an attempt whose files are not whole is made again."""
        controls = [done for done in finished if self.doubts.is_control(done.unit)]
        for done in controls:
            self.doubts.control = None
            self.folder.discard(done.report.attempt)
        finished = [done for done in finished if done not in controls]
        refused = self.folder.publish_many([done.report.attempt for done in finished], replace=self.replacing)
        broken = {id(refusal.attempt): refusal.error for refusal in refused}
        for done in finished:
            if (error := broken.get(id(done.report.attempt))) is not None:
                self.folder.discard(done.report.attempt)
                self._put_back(Lost(done.unit, done.worker, str(error), first=True, alone=True))
            else:
                self._count(done)
        if controls or len(refused) < len(finished):
            self.doubts.dispelled()
            self._quarantine_condemned()

    def _count(self, done: Finished) -> None:
        attempt = done.report.attempt
        self.deadlines.measured(done.unit, len(attempt.made), done.report.busy_seconds)
        if len(attempt.made) == len(done.unit.places):
            self.doubts.proven = int(done.unit.places[0])
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
            busy_seconds=done.report.busy_seconds,
        )

    def _put_back(self, lost: Lost) -> None:
        unit = lost.unit
        if lost.first:
            self.log.write("unit_lost", unit=unit.number, worker=lost.worker, rows=len(unit.places), cause=lost.cause)
            self.doubts.add(lost)
        unit = replace(unit, attempt=unit.attempt + lost.first, strikes=unit.strikes + lost.alone, suspect=True)
        if self.doubts.is_control(lost.unit):
            self.doubts.control = None
        elif unit.strikes < (UNIT_TRIES if len(unit.places) > 1 else ROW_TRIES):
            self.suspects.append(unit)
        elif len(unit.places) > 1:
            self.suspects.extend(self._halves(unit))
        else:
            self.doubts.condemned.append(replace(lost, unit=unit))

    def _halves(self, unit: Unit) -> list[Unit]:
        middle = len(unit.places) // 2
        halves = unit.places[:middle], unit.places[middle:]
        return [Unit(self._number(), places, suspect=True) for places in halves]

    def _quarantine_condemned(self) -> None:
        """Rows that take their workers with them, each by the driver's own attempt."""
        for lost in self.doubts.condemned:
            self._quarantine(lost.unit, lost.cause)
        self.doubts.condemned.clear()

    def _quarantine(self, unit: Unit, cause: str) -> None:
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
        attempt = write_attempt(self.folder.path, unit.number, token, None, [], [failure], {image.id: image.digest})
        self.folder.publish(attempt, replace=self.replacing)
        self.quarantined += 1
        self.log.write("quarantined", unit=unit.number, id=image.id, error_class="worker_died")

    def _number(self) -> int:
        self.next_number += 1
        return self.next_number - 1
