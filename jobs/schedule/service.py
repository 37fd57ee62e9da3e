"""The service: `wanbatch schedule run` looks at its schedules every second until it is told to stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.interruption import stop_on_signals
from wanbatch.jobs.schedule.commands import THIS_WANBATCH
from wanbatch.jobs.schedule.decisions import shown
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.launcher import ProcessLauncher, log_of
from wanbatch.jobs.schedule.ledger import Tick
from wanbatch.jobs.schedule.scheduler import Scheduler
from wanbatch.jobs.schedule.state_folder import opened_ledger, state_lock
from wanbatch.jobs.schedule.ticks import next_tick

LOOK_SECONDS = 1.0


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
            tell=lambda tick: say(told(tick, named.get(tick.schedule), state)),
        )  # fmt: skip
        scheduler.begin()
        for one in schedules:
            say(f"{one.name}: {next_words(one, clock.now())}")
        look_until(stop, scheduler.look, clock)
        scheduler.stop()
        if under_way := scheduler.under_way():
            say(f"stopping: {', '.join(tick.run_id for tick in under_way)} may end what they hold")

        def over() -> bool:
            return not scheduler.under_way()

        look_until(over, scheduler.settle, clock)


def look_until(over: Callable[[], bool], look: Callable[[], None], clock: SystemClock) -> None:
    """Look again and again; a disk that is full or fails is told once, and tried again until it works."""
    trouble = ""
    while True:
        try:
            if over():
                return
            look()
            if trouble:
                say("the ledger and the logs can be written again")
            trouble = ""
        except MachineryError as error:
            if str(error) != trouble:
                say(str(error))
            trouble = str(error)
        clock.sleep(LOOK_SECONDS)


def next_words(one: Schedule, now: datetime) -> str:
    """When a schedule is due next, in words."""
    due = next_tick(one.cron, one.zone, now)
    return f"next at {shown(due, one) if due else 'no time within 50 years'}"


def told(tick: Tick, schedule: Schedule | None, state: Path) -> str:
    """What became of a tick, with its log if it failed. state: the folder of the ledger."""
    ending = f" with exit code {tick.exit_code}" if tick.exit_code is not None and not tick.is_open else ""
    when = f" at {shown(tick.ended, schedule)}" if tick.ended is not None and not tick.is_open else ""
    reason = f" ({tick.reason})" if tick.reason else ""
    log = f"; its log is {log_of(state, tick)}" if tick.state == "failed" else ""
    return f"{tick.schedule} of {shown(tick.time, schedule)}: {tick.state}{when}{ending}{reason}{log}"


def say(text: str) -> None:
    """Print a line with the time before it to the standard error stream."""
    print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}", file=sys.stderr, flush=True)
