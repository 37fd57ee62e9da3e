"""The service: `wanbatch schedule run` looks at its schedules every second until it is told to stop."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from wanbatch.errors import FolderHeldError, MachineryError, UserError
from wanbatch.jobs.driver.interruption import stop_on_signals
from wanbatch.jobs.schedule.commands import THIS_WANBATCH
from wanbatch.jobs.schedule.decisions import shown
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.launcher import ProcessLauncher, log_of
from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.scheduler import Scheduler
from wanbatch.jobs.schedule.ticks import next_tick, ticks_between
from wanbatch.manifests.storage.atomic_files import make_folder

LOOK_SECONDS = 1.0
LOCK = "lock"


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """The time of day, UTC."""
        return datetime.now(UTC)

    def passed(self) -> float:
        """Seconds that this machine was awake."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def serve(
    schedules: Sequence[Schedule],
    state: Path,
    folder: Path,
    *,
    parallel: int = 1,
    clock: SystemClock | None = None,
    wanbatch: Sequence[str] = THIS_WANBATCH,
) -> None:
    """Run schedules until SIGTERM or Ctrl-C, then stop their runs and wait for what they hold.

    Args:
        schedules: those of the file.
        state: the folder of the ledger and the logs.
        folder: where the commands of ticks are run.
        parallel: how many runs go on at once on this machine.
        clock: tells the time; None: this machine's.
        wanbatch: the words that start wanbatch.

    Raises:
        FolderHeldError: Another service uses the state folder.
        MachineryError: The ledger cannot be opened.
    """
    clock = clock or SystemClock()
    with state_lock(state, shared=False), opened_ledger(state) as ledger, stop_on_signals() as stop:
        named = {one.name: one for one in schedules}
        scheduler = Scheduler(
            schedules, ledger, ProcessLauncher(state, folder, wanbatch), clock, parallel=parallel,
            tell=lambda tick: _tell(tick, named.get(tick.schedule), state),
        )  # fmt: skip
        scheduler.begin()
        for one in schedules:
            _say(f"{one.name}: {_next(one, clock.now())}")
        _until(stop, scheduler.look, clock)
        scheduler.stop()
        if under_way := scheduler.under_way():
            _say(f"stopping: {', '.join(tick.run_id for tick in under_way)} may end what they hold")

        def over() -> bool:
            return not scheduler.under_way()

        _until(over, scheduler.settle, clock)


def run_tick(
    schedules: Sequence[Schedule],
    name: str,
    state: Path,
    folder: Path,
    *,
    clock: SystemClock | None = None,
    wanbatch: Sequence[str] = THIS_WANBATCH,
) -> Tick:
    """Run the tick of one schedule whose time has come, as another scheduler asks; waits until it is over.

    Args:
        schedules: those of the file.
        name: of the one whose tick it is.
        state, folder, clock, wanbatch: as for `serve`.

    Returns:
        The tick's row: over, or interrupted.

    Raises:
        UserError: No tick of this schedule is due now.
        FolderHeldError: A service runs, which starts the ticks itself.
        MachineryError: The ledger cannot be opened or written.
    """
    one = next(schedule for schedule in schedules if schedule.name == name)
    clock = clock or SystemClock()
    due = due_time(one, clock.now())
    with state_lock(state, shared=True), opened_ledger(state) as ledger, stop_on_signals() as stop:
        launcher = ProcessLauncher(state, folder, wanbatch)
        scheduler = Scheduler(
            schedules, ledger, launcher, clock, only=name, tell=lambda tick: _tell(tick, one, state)
        )
        scheduler.begin()
        scheduler.settle()
        known = ledger.find(name, [due]).get(due)
        admitted = scheduler.admit(name, due)
        if known is not None and known == admitted and not known.is_open:
            _say(f"{_told(known, one, state)}: it is not run again; {_next(one, clock.now())}")

        def over() -> bool:
            return not ledger.find(name, [due])[due].is_open

        _until(lambda: stop() or over(), scheduler.look, clock)
        if not over():
            scheduler.stop()
            _until(lambda: not scheduler.under_way(), scheduler.settle, clock)
        return ledger.find(name, [due])[due]


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


@contextmanager
def state_lock(state: Path, *, shared: bool) -> Iterator[None]:
    """Keep other services away from a state folder; several commands that run one tick each may share it.

    Raises:
        FolderHeldError: It is in use.
        MachineryError: It cannot be locked.
    """
    path = state / LOCK
    try:
        make_folder(state)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise MachineryError(
            f"{path}: cannot be used ({error.strerror}): choose another folder with --state"
        ) from error
    try:
        _take(lock, state, shared)
        yield
    finally:
        os.close(lock)


def _take(lock: int, state: Path, shared: bool) -> None:
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderHeldError(
            f"{state}: another `wanbatch schedule run` or `schedule tick` uses this folder: stop it, or choose "
            "another folder with --state"
        ) from None
    except OSError as error:
        raise MachineryError(
            f"{state / LOCK}: cannot be locked ({error.strerror}): choose a folder on a local disk with --state"
        ) from error


@contextmanager
def opened_ledger(state: Path, *, read_only: bool = False) -> Iterator[Ledger]:
    """The ledger of a state folder. Raises as `Ledger`."""
    ledger = Ledger(state, read_only=read_only)
    try:
        yield ledger
    finally:
        ledger.close()


def _until(over: Callable[[], bool], look: Callable[[], None], clock: SystemClock) -> None:
    """Look again and again; a disk that is full or fails is told once, and tried again until it works."""
    trouble = ""
    while True:
        try:
            if over():
                return
            look()
            if trouble:
                _say("the ledger and the logs can be written again")
            trouble = ""
        except MachineryError as error:
            if str(error) != trouble:
                _say(str(error))
            trouble = str(error)
        clock.sleep(LOOK_SECONDS)


def _next(one: Schedule, now: datetime) -> str:
    """When a schedule is due next, in words."""
    due = next_tick(one.cron, one.zone, now)
    return f"next at {shown(due, one) if due else 'no time within 50 years'}"


def _tell(tick: Tick, schedule: Schedule | None, state: Path) -> None:
    _say(_told(tick, schedule, state))


def _told(tick: Tick, schedule: Schedule | None, state: Path) -> str:
    """What became of a tick, with its log if it failed. state: the folder of the ledger."""
    ending = f" with exit code {tick.exit_code}" if tick.exit_code is not None and not tick.is_open else ""
    when = f" at {shown(tick.ended, schedule)}" if tick.ended is not None and not tick.is_open else ""
    reason = f" ({tick.reason})" if tick.reason else ""
    log = f"; its log is {log_of(state, tick)}" if tick.state == "failed" else ""
    return f"{tick.schedule} of {shown(tick.time, schedule)}: {tick.state}{when}{ending}{reason}{log}"


def _say(text: str) -> None:
    print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}", file=sys.stderr, flush=True)
