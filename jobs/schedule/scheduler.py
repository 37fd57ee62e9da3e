"""The schedules at work: at each look, what ended is noted, what is due is decided, and what may start is started.

It keeps nothing that the ledger does not have, so that it can be ended at any moment and begun anew. Pure but for the
ledger's file: the clock and what starts processes are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from wanbatch.errors import UserError
from wanbatch.jobs.schedule import decisions
from wanbatch.jobs.schedule.decisions import Outcome
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.ledger import Ledger, Seen, Tick, changed
from wanbatch.jobs.schedule.ticks import next_tick, ticks_between, zone_of

MOST_MISSED = 1000
"""Ticks of one stretch without a look that get a row each; one row stands for all earlier ones."""
JUMP = timedelta(seconds=30)
"""A clock that ran so much farther than time went by was set, or its machine slept."""
DROP_EVERY = 500
"""Rows that are written between two removals of the oldest."""

NOT_RUNNING = "the service was not running"
SLEPT = "the machine slept, or its clock was set forward"
HELD_UP = "the service was held up"


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time of day, UTC, which may be set."""

    def passed(self) -> float:
        """Seconds since some moment, which nobody can set."""


class Launcher(Protocol):
    """Starts the processes of ticks, and knows what became of them, also of those that another service started."""

    def reserve(self, tick: Tick) -> bool:
        """Make sure that no process of this tick is alive, and keep others from starting one."""

    def release(self, tick: Tick) -> None:
        """Give up what `reserve` took, without having started anything."""

    def start(self, tick: Tick, schedule: Schedule) -> None:
        """Start the process of a tick that was reserved."""

    def look(self, tick: Tick) -> Outcome | Literal["running", "gone"]:
        """What became of a tick that was started."""

    def said(self, tick: Tick) -> str:
        """The last line that a tick's commands printed; or nothing."""

    def stop(self, tick: Tick) -> None:
        """Ask the process of a tick to stop: its run ends what it holds."""

    def forget(self, tick: Tick, schedule: Schedule | None) -> None:
        """Remove what a tick that is over no longer needs, and old logs of its schedule."""


class Scheduler:
    """Some schedules, their ledger, and what starts their runs."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        ledger: Ledger,
        launcher: Launcher,
        clock: Clock,
        *,
        only: str | None = None,
        parallel: int = 1,
        tell: Callable[[Tick], None] = lambda tick: None,
    ):
        """Go on with what the ledger says.

        Args:
            schedules: those of the file.
            ledger: open to write; no other service uses it.
            launcher: of the runs.
            clock: tells the time.
            only: look after the ticks of this schedule alone, whose times another scheduler tells.
            parallel: how many runs go on at once on this machine.
            tell: is told of each row that is written.
        """
        self.schedules = {one.name: one for one in schedules}
        self._ledger, self._launcher, self._clock, self._parallel, self._tell = (
            ledger, launcher, clock, parallel, tell,
        )  # fmt: skip
        self._only = only
        self._last: tuple[datetime, float] | None = None  # time of day and seconds at the last look
        self._next: dict[str, tuple[datetime, datetime | None]] = {}  # since when the next tick of each is known
        self._written = DROP_EVERY

    def begin(self) -> None:
        """Note schedules that are new, and decide about ticks of those whose cron was changed meanwhile."""
        now = self._clock.now()
        for one in self.schedules.values():
            seen = self._ledger.seen(one.name)
            if seen is None:
                self._note([], {one.name: now})
            elif (seen.cron, seen.zone) != (one.cron, one.zone.key):
                rows = []
                with suppress(UserError):  # the zone is no longer one
                    old = replace(one, cron=seen.cron, zone=zone_of(seen.zone))
                    rows = self._missed(old, seen.looked, now, f"{NOT_RUNNING}, and its cron was changed since")
                self._note(rows, {one.name: now}, decided=True)

    def look(self) -> None:
        """Note what ended, decide what is due, start what may start."""
        self.settle()
        self.expire()
        self._decide()
        self._start()

    def settle(self) -> None:
        """Note what ended, and start nothing."""
        for tick in self.under_way():
            one = self.schedules.get(tick.schedule)
            found = self._launcher.look(tick)
            if found == "running":
                continue
            now = self._clock.now()
            row = decisions.gone(tick, one, now) if found == "gone" else decisions.ended(tick, one, found, now)
            if row.state == "failed" and (said := self._launcher.said(tick)):
                row = changed(row, now, reason=decisions.with_last_line(row.reason, said))
            self._note([row])
            if not row.is_open:
                self._launcher.forget(row, one)

    def expire(self) -> None:
        """Note which ticks wait and may no longer be started."""
        now = self._clock.now()
        waiting = [tick for tick in self._open() if tick.state != "running"]
        rows = [row for tick in waiting if (row := decisions.expired(tick, self.schedules.get(tick.schedule), now))]
        if rows:
            self._note(rows)

    def next_time(self) -> datetime | None:
        """When the next tick of any schedule is due; None: never again."""
        times = [self._next_of(one, self._looked(one)) for one in self.schedules.values()]
        return min((time for time in times if time), default=None)

    def under_way(self) -> list[Tick]:
        """The ticks whose processes are alive, as far as is known."""
        return [tick for tick in self._open() if tick.state == "running"]

    def _open(self) -> list[Tick]:
        """The ticks that are not over, of the schedules that are looked after."""
        return [tick for tick in self._ledger.open_ticks() if self._only in (None, tick.schedule)]

    def stop(self) -> None:
        """Ask all runs on this machine to stop; `settle` notes when they have."""
        for tick in self.under_way():
            self._launcher.stop(tick)

    def admit(self, name: str, time: datetime) -> Tick:
        """Decide about one tick of a schedule at once, as another scheduler asks; what was decided stays."""
        one, now = self.schedules[name], self._clock.now()
        known = self._ledger.find(name, [time])
        busy = [tick for tick in self._ledger.open_ticks() if tick.schedule == name]
        missed = self._missed(one, self._looked(one), time - timedelta(seconds=1), "nobody started it")
        rows = decisions.admitted(replace(one, catch_up="latest"), [time], known, busy, now, "it was started late")
        self._note([*missed, *rows], {name: max(self._looked(one), time)}, decided=True)
        return self._ledger.find(name, [time])[time]

    def _decide(self) -> None:
        now, passed = self._clock.now(), self._clock.passed()
        cause = NOT_RUNNING
        if self._last is not None:
            jumped = (now - self._last[0]) - timedelta(seconds=passed - self._last[1])
            cause = SLEPT if jumped > JUMP else HELD_UP
        for one in () if self._only else self.schedules.values():
            looked = self._looked(one)
            if now < looked - JUMP:  # the clock was set back: ticks whose time comes again are decided again
                self._note([], {one.name: now}, ahead_of=now)
            elif (due := self._next_of(one, looked)) is not None and due <= now:
                self._note(self._due(one, looked, now, cause), {one.name: now}, decided=True)
        self._last = (now, passed)

    def _due(self, one: Schedule, looked: datetime, now: datetime, cause: str) -> list[Tick]:
        """The rows of all ticks of a schedule in a stretch of time that ends now."""
        due, known, earlier = self._between(one, looked, now, cause)
        busy = [tick for tick in self._ledger.open_ticks() if tick.schedule == one.name]
        return earlier + decisions.admitted(one, due, known, busy, now, cause)

    def _missed(self, one: Schedule, after: datetime, until: datetime, reason: str) -> list[Tick]:
        """The rows of the ticks in a stretch of time in which nobody could start them."""
        due, known, earlier = self._between(one, after, until, reason)
        noted = self._clock.now()
        return earlier + [Tick(one.name, time, "missed", reason, noted) for time in due if time not in known]

    def _between(
        self, one: Schedule, after: datetime, until: datetime, cause: str
    ) -> tuple[list[datetime], dict[datetime, Tick], list[Tick]]:
        """The ticks in a stretch of time, the rows that there are of them, and one for those that are too many."""
        due, more = ticks_between(one.cron, one.zone, after, until, MOST_MISSED)
        earlier = []
        first = next_tick(one.cron, one.zone, after) if more else None
        if first is not None and not self._ledger.find(one.name, [first]):
            until_words = decisions.shown(due[0], one)
            reason = f"{cause}; this row stands for all ticks from here until before {until_words}"
            earlier = [Tick(one.name, first, "missed", reason, self._clock.now())]
        return due, self._ledger.find(one.name, due), earlier

    def _start(self) -> None:
        heads: dict[str, Tick] = {}
        for tick in self._open():
            heads.setdefault(tick.schedule, tick)
        here = sum(self._is_here(tick) for tick in self.under_way())
        for tick in heads.values():
            one, now = self.schedules.get(tick.schedule), self._clock.now()
            if one is None or tick.state == "running" or decisions.pauses(tick, now):
                continue
            if (one.address is None and here >= self._parallel) or not self._launcher.reserve(tick):
                continue
            attempt = tick.attempts + 1
            row = changed(tick, now, state="running", attempts=attempt, not_before=None, started=tick.started or now)
            try:
                self._note([row])
            except BaseException:
                self._launcher.release(tick)
                raise
            self._launcher.start(row, one)
            here += self._is_here(tick)

    def _is_here(self, tick: Tick) -> bool:
        one = self.schedules.get(tick.schedule)
        return one is None or one.address is None

    def _looked(self, one: Schedule) -> datetime:
        seen = self._ledger.seen(one.name)
        return seen.looked if seen else self._clock.now()

    def _next_of(self, one: Schedule, looked: datetime) -> datetime | None:
        known = self._next.get(one.name)
        if known is None or known[0] != looked:
            known = self._next[one.name] = (looked, next_tick(one.cron, one.zone, looked))
        return known[1]

    def _note(
        self,
        rows: Sequence[Tick],
        looked: dict[str, datetime] | None = None,
        ahead_of: datetime | None = None,
        decided: bool = False,
    ) -> None:
        """Write rows, and how far schedules have been looked at, at once; take out what was missed after a time.

        decided: the rows are of ticks that had none, or were only missed: what another command has decided of them
        meanwhile stays.
        """
        self._written += len(rows)
        drop = self._written >= DROP_EVERY
        with self._ledger.changes():
            if decided:
                rows = self._ledger.add(rows)
            else:
                self._ledger.write(rows)
            for name, time in (looked or {}).items():
                one = self.schedules[name]
                self._ledger.see(name, Seen(time.astimezone(UTC), one.cron, one.zone.key))
                if ahead_of:
                    self._ledger.drop_missed_after(name, ahead_of)
            if drop:
                for name in self.schedules:
                    self._ledger.drop_old(name)
        self._written = 0 if drop else self._written
        for row in rows:
            self._tell(row)
