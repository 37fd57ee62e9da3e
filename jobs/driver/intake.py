"""What becomes of units that came back: their attempts are verified and committed, held back, or discarded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa

from wanbatch.jobs.driver.circuit_breaker import MADE_SINCE, CircuitBreaker, explanation
from wanbatch.jobs.driver.deadlines import Deadlines
from wanbatch.jobs.driver.events import UnitFinished
from wanbatch.jobs.driver.retry_policy import MAX_DEATHS_OF_ROW
from wanbatch.jobs.driver.run_counters import RunCounters
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import Failure


@dataclass(frozen=True, slots=True, eq=False)
class DamagedAttempt:
    """A unit that came back with files that are not whole, and what is wrong with them."""

    finished: UnitFinished
    problem: str


@dataclass(frozen=True, slots=True, eq=False)
class _HeldBack:
    finished: UnitFinished
    suspect: bool  # else it waits only until something is made
    made_then: int  # images that the run had made when it came back


class Intake:
    """Takes units that came back. What it commits is counted and logged."""

    def __init__(
        self,
        plan: Plan,
        folder: OutputFolder,
        log: RunLog,
        counters: RunCounters,
        breaker: CircuitBreaker,
        deadlines: Deadlines,
        replace: bool,
        log_prompts: bool,
    ):
        """Take units of a plan.

        Args:
            plan: what is made.
            folder: where it is committed.
            log: the folder's.
            counters: told of every commit.
            breaker: told of every unit that came back.
            deadlines: told how long units took.
            replace: ids may be committed that are made already.
            log_prompts: the log has the prompts of rows that are quarantined, too.
        """
        self._plan, self._folder, self._log, self._counters = plan, folder, log, counters
        self._breaker, self._deadlines = breaker, deadlines
        self._replace, self._log_prompts = replace, log_prompts
        self._held_back: list[_HeldBack] = []
        self._failed: Counter[str] = Counter()  # that came back in this run, committed or not
        self._causes: dict[str, str] = {}
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Images that were made in attempts that were held back and then discarded."""
        return self._dropped

    @property
    def failures_held_back(self) -> int:
        """Images that failed and are not committed yet."""
        return sum(len(held.finished.failed) for held in self._held_back)

    @property
    def stop_cause(self) -> str | None:
        """Why the circuit is open, with what to do; None while it is closed."""
        kind = self._breaker.open_for
        return None if kind is None else explanation(kind, self._failed, self._causes.get(kind, kind))

    def take(self, finished: Sequence[UnitFinished]) -> list[DamagedAttempt]:
        """Take units that came back together; most are committed, in one go.

        Returns:
            Those whose files are not whole. They are gone, and the units are to be made again.
        """
        for done in finished:
            kinds = [kind for _, kind in done.failed]
            for kind in kinds:
                self._causes.setdefault(kind, done.report.causes.get(kind, kind))
            self._failed.update(kinds)
            self._breaker.count(len(done.made), kinds)
            suspect = self._breaker.suspects(len(done.made), kinds)
            self._held_back.append(_HeldBack(done, suspect, self._breaker.made))
        if self._breaker.open_for is not None:
            self._discard_held_back()
            return []
        ready = [held.finished for held in self._held_back if self._is_cleared(held)]
        self._held_back = [held for held in self._held_back if not self._is_cleared(held)]
        return self._commit(ready)

    def settle(self, interrupted: bool) -> list[DamagedAttempt]:
        """Decide what was held back, now that nothing more comes.

        Args:
            interrupted: there was more to come, so where nothing is made, what failed cannot be judged: it is
                discarded. Otherwise it is committed.

        Returns:
            As `take` does.
        """
        if self._breaker.starting and interrupted:
            self._discard_held_back()
        left, self._held_back = [held.finished for held in self._held_back], []
        return self._commit(left)

    def quarantine(self, unit: Unit, cause: str, token: str) -> None:
        """Quarantine a single row that its worker dies of, by an attempt that the driver writes.

        Args:
            unit: of that row alone.
            cause: what became of its last worker.
            token: no other attempt at this unit has the same.
        """
        image = self._plan.task(unit.number, unit.attempt, "", unit.indices).images[0]
        failure = Failure(
            id=image.id,
            manifest_row=image.manifest_row,
            stage="generate",
            error_class="worker_died",
            message=f"its worker process died {MAX_DEATHS_OF_ROW} times while making only this row: {cause}",
            attempts=unit.attempt - 1,
            unit=unit.number,
            time=datetime.now(UTC),
        )
        attempt = write_attempt(self._folder.url, unit.number, token, None, [], [failure], {image.id: image.digest})
        self._folder.publish(attempt, replace=self._replace)
        self._counters.unit_published(made=0, quarantined=1)
        self._log_quarantined(unit, attempt.failed)

    def _is_cleared(self, held: _HeldBack) -> bool:
        if held.suspect:
            return self._breaker.made - held.made_then >= MADE_SINCE
        return not self._breaker.starting

    def _discard_held_back(self) -> None:
        for held in self._held_back:
            self._dropped += len(held.finished.made)
            if held.finished.report.attempt is not None:
                self._folder.discard(held.finished.report.attempt)
        self._held_back = []

    def _commit(self, finished: Sequence[UnitFinished]) -> list[DamagedAttempt]:
        written = [(done, attempt) for done in finished if (attempt := done.report.attempt) is not None]
        if not written:
            return []
        refused = self._folder.publish_many([attempt for _, attempt in written], replace=self._replace)
        broken = {id(refusal.attempt): refusal.error for refusal in refused}
        damaged = []
        for done, attempt in written:
            if (error := broken.get(id(attempt))) is not None:
                self._folder.discard(attempt)
                damaged.append(DamagedAttempt(done, str(error)))
            else:
                self._count(done)
        return damaged

    def _count(self, done: UnitFinished) -> None:
        made, failed, report = done.made, done.failed, done.report
        self._deadlines.learn(done.unit, made, report.busy_seconds, report.slots, report.slot_use)
        self._counters.unit_published(len(made), len(failed), report.model_seconds, report.source_notes)
        self._counters.slots_used(report.evaluations, report.slot_steps)
        self._counters.parts_moved(report.moves, report.move_seconds)
        notes = {name: asdict(noted) for name, noted in report.source_notes.items()}
        moved = {"moves": report.moves, "move_seconds": round(report.move_seconds, 4)} if report.moves else {}
        self._log.write(
            "unit",
            unit=done.unit.number,
            attempt=done.unit.attempt,
            worker=done.worker,
            made=len(made),
            failed=len(failed),
            slots=report.slots,
            busy_seconds=round(report.busy_seconds, 4),
            model_seconds=round(report.model_seconds, 4),
            evaluations=report.evaluations,
            slot_steps=round(report.slot_steps, 2),
            source_retries=report.source_retries,
            **({"source_notes": notes} if notes else {}),
            **moved,
        )
        self._log_quarantined(done.unit, failed)

    def _log_quarantined(self, unit: Unit, failed: Sequence[tuple[str, str]]) -> None:
        """Rows by id, error class and digest; by their prompts only if that was asked for."""
        images = self._plan.images.take(pa.array(unit.indices)).select(["id", "digest", "prompt"]) if failed else None
        known = {row["id"]: row for row in images.to_pylist()} if images else {}
        for name, kind in failed:
            prompt = {"prompt": known[name]["prompt"]} if self._log_prompts else {}
            digest = known[name]["digest"]
            self._log.write("quarantined", unit=unit.number, id=name, error_class=kind, digest=digest, **prompt)
