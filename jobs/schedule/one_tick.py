"""`wanbatch schedule tick`: one schedule at the bidding of cron, systemd and the like, without a service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from wanbatch.errors import UserError
from wanbatch.jobs.driver.interruption import stop_on_signals
from wanbatch.jobs.schedule.commands import THIS_WANBATCH
from wanbatch.jobs.schedule.decisions import INTERRUPTED, MACHINERY, shown
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.launcher import ProcessLauncher
from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.scheduler import Launcher, Scheduler
from wanbatch.jobs.schedule.service import SystemClock, look_until, next_words, say, told
from wanbatch.jobs.schedule.state_folder import Turn, opened_ledger, state_lock
from wanbatch.jobs.schedule.ticks import next_tick, ticks_between


class LookedAfter(NamedTuple):
    """What one command did.

    Attributes:
        last: the row of the last tick that was looked after, over or interrupted; if there was none, that of the one
            due.
        ticks: the rows of all ticks that something was decided about or that were waited for, in order.
    """

    last: Tick
    ticks: tuple[Tick, ...]


def run_tick(
    schedules: Sequence[Schedule],
    name: str,
    state: Path,
    folder: Path,
    *,
    clock: SystemClock | None = None,
    wanbatch: Sequence[str] = THIS_WANBATCH,
    launcher: Launcher | None = None,
) -> LookedAfter:
    """Run the tick of one schedule whose time has come, as another scheduler asks; waits until it is over.

    Earlier ticks of it that are not over are looked after first, unless another such command does: resumed, or
    expired, or waited for if their run goes on alone. What the tick becomes is decided as by the service.

    Args:
        schedules: those of the file.
        name: of the one whose tick it is.
        state, folder, clock, wanbatch: as for `serve`.
        launcher: starts the processes; None: real ones.

    Returns:
        What was looked after.

    Raises:
        UserError: No tick of this schedule is due now.
        FolderHeldError: A service runs, which starts the ticks itself.
        MachineryError: The ledger cannot be opened or written.
    """
    one = next(schedule for schedule in schedules if schedule.name == name)
    clock = clock or SystemClock()
    with (
        state_lock(state, shared=True),
        opened_ledger(state) as ledger,
        closing(Turn(state, name)) as turn,
        stop_on_signals() as stop,
    ):
        launcher = launcher or ProcessLauncher(state, folder, wanbatch)
        decided = _Decided(one, state)
        scheduler = Scheduler(schedules, ledger, launcher, clock, only=name, tell=decided.add)
        scheduler.begin()
        if turn.take():
            scheduler.settle()
            scheduler.expire()
        due = due_time(one, clock.now())
        known = ledger.find(name, [due]).get(due)
        if scheduler.admit(name, due) == known and not known.is_open:
            say(f"{told(known, one, state)}: it is not run again; {next_words(one, clock.now())}")
        return _Watch(ledger, scheduler, turn, name, due).until_over(stop, clock, decided.times)


class _Decided:
    """Says what is decided about ticks, and keeps the times of those of one schedule."""

    def __init__(self, one: Schedule, state: Path):
        self._one, self._state = one, state
        self.times: set[datetime] = set()

    def add(self, tick: Tick) -> None:
        """Take a row that was written."""
        say(told(tick, self._one, self._state))
        if tick.schedule == self._one.name:
            self.times.add(tick.time)


class _Watch:
    """What one command looks after: the tick that is due, and while it is its turn all earlier ones, too."""

    def __init__(self, ledger: Ledger, scheduler: Scheduler, turn: Turn, name: str, due: datetime):
        self._ledger, self._scheduler, self._turn, self._name, self._due = ledger, scheduler, turn, name, due
        self._watched: set[datetime] = set()

    def until_over(self, stop: Callable[[], bool], clock: SystemClock, decided: Collection[datetime]) -> LookedAfter:
        """Look until all is over, or it is to stop.

        Args:
            stop: whether it is to.
            clock: tells the time.
            decided: times of ticks about which something was decided, which grow meanwhile.
        """
        look_until(lambda: stop() or self.is_over(), self.look, clock)
        if not self.is_over():
            self.stop(clock)
        rows = self._ledger.find(self._name, sorted({self._due, *self._watched, *decided}))
        return LookedAfter(rows[max(self._watched, default=self._due)], tuple(rows[time] for time in sorted(rows)))

    def is_over(self) -> bool:
        """Whether nothing that is to be looked after is open."""
        mine = self._turn.take()
        wanted = {
            tick.time
            for tick in self._ledger.open_ticks()
            if tick.schedule == self._name and (tick.time == self._due or (mine and tick.time < self._due))
        }
        self._watched |= wanted
        return not wanted

    def look(self) -> None:
        """Go on with the ticks, unless it is another command's turn: then that one does."""
        if self._turn.is_mine:
            self._scheduler.look()

    def stop(self, clock: SystemClock) -> None:
        """Stop the runs and wait for what they hold; those that another command looks after go on."""
        if not self._turn.is_mine:
            return
        self._scheduler.stop()
        look_until(lambda: not self._scheduler.under_way(), self._scheduler.settle, clock)


def exit_code(tick: Tick) -> int:
    """The exit code of a command that ends with this row: that of the run, as far as there was one.

    A tick that had run before, or is skipped, is no failure; one that is not over was interrupted; one that could not
    be started before its deadline, or whose run a signal killed, is the machinery's failure.
    """
    if tick.exit_code is not None and tick.exit_code >= 0:
        return tick.exit_code
    if tick.is_open:
        return INTERRUPTED
    return MACHINERY if tick.state in ("failed", "expired") else 0


def due_time(one: Schedule, now: datetime) -> datetime:
    """The latest time at which a schedule was due, within its deadline.

    Raises:
        UserError: There was none.
    """
    found, _ = ticks_between(one.cron, one.zone, now - one.deadline, now, 1)
    if not found:
        coming = next_tick(one.cron, one.zone, now)
        raise UserError(
            f"schedule {one.name}: was not due within its deadline, is due next at "
            f"{shown(coming, one) if coming else 'no time'}: start it then; a scheduler that started it now may use "
            "another time zone"
        )
    return found[-1]
