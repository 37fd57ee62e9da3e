"""A world for schedules: a clock turned by hand, processes that only exist in it, crashes at any operation.

What is durable outlives a crash: the ledger's file, and the processes. The service's memory does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from wanbatch.errors import MachineryError
from wanbatch.jobs.schedule.decisions import Outcome
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.scheduler import Scheduler


class Crash(BaseException):
    """The service is killed."""


@dataclass
class World:
    """Time, processes, and where the service is to be killed.

    Attributes:
        time: of day, UTC.
        awake: seconds that the machine was awake.
        seconds: that a run takes, by its tick.
        code: the exit code of a run, by its tick and attempt.
        crash_at: the service is killed before so many more operations; None: never.
        disk_full: whether nothing can be written.
        alive: processes and when they end.
        results: how processes ended.
        started: how often each tick was started.
        ended: how often a process of each tick came to its end.
        made: how often with a good exit code.
        overlaps: starts of a process while another one of the same schedule was alive.
    """

    time: datetime
    seconds: Callable[[Tick], float] = lambda tick: 600.0
    code: Callable[[Tick], int] = lambda tick: 0
    awake: float = 0.0
    crash_at: int | None = None
    operations: int = 0
    disk_full: bool = False
    alive: dict[tuple[str, datetime], datetime] = field(default_factory=dict)
    codes: dict[tuple[str, datetime], int] = field(default_factory=dict)
    results: dict[tuple[str, datetime], Outcome] = field(default_factory=dict)
    started: Counter = field(default_factory=Counter)
    overlaps: list[Tick] = field(default_factory=list)
    ended: Counter = field(default_factory=Counter)
    made: Counter = field(default_factory=Counter)

    def operation(self) -> None:
        """Something outside of the service's memory is about to change, or has just changed."""
        self.operations += 1
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at == 0:
                self.crash_at = None
                raise Crash

    def go_on(self, seconds: float, *, set_clock: float = 0.0, asleep: bool = False) -> None:
        """Let time go by, and set the clock by some seconds besides."""
        self.time += timedelta(seconds=seconds + set_clock)
        self.awake += 0 if asleep else seconds
        for key, end in list(self.alive.items()):
            self.alive[key] = end = end + timedelta(seconds=set_clock + (seconds if asleep else 0))
            if end <= self.time:
                del self.alive[key]
                self.ended[key] += 1
                self.made[key] += self.codes[key] in (0, 3)
                self.results[key] = Outcome(self.codes[key], False, self.time)

    def power_cut(self) -> None:
        """All processes are gone without a result."""
        self.alive.clear()

    def now(self) -> datetime:
        return self.time

    def passed(self) -> float:
        return self.awake


class FakeLauncher:
    """Processes that exist in a `World` alone."""

    def __init__(self, world: World):
        self._world = world

    def reserve(self, tick: Tick) -> bool:
        world = self._world
        if (tick.schedule, tick.time) in world.alive:
            return False
        world.operation()
        world.results.pop((tick.schedule, tick.time), None)
        world.operation()
        return True

    def release(self, tick: Tick) -> None: ...

    def start(self, tick: Tick, schedule: Schedule) -> None:
        world, key = self._world, (tick.schedule, tick.time)
        world.operation()
        assert key not in world.alive
        if any(name == tick.schedule for name, _ in world.alive):
            world.overlaps.append(tick)
        world.started[key] += 1
        world.codes[key] = world.code(tick)
        world.alive[key] = world.time + timedelta(seconds=world.seconds(tick))
        world.operation()

    def look(self, tick: Tick) -> Outcome | Literal["running", "gone"]:
        key = (tick.schedule, tick.time)
        return "running" if key in self._world.alive else self._world.results.get(key, "gone")

    def said(self, tick: Tick) -> str:
        return ""

    def stop(self, tick: Tick) -> None:
        world, key = self._world, (tick.schedule, tick.time)
        if world.alive.pop(key, None):
            world.results[key] = Outcome(130, True, world.time)

    def forget(self, tick: Tick, schedule: Schedule | None) -> None:
        self._world.operation()
        self._world.results.pop((tick.schedule, tick.time), None)


class CrashingLedger(Ledger):
    """A ledger whose service may be killed before each change, before its end, and after it."""

    def __init__(self, folder: Path, world: World):
        self._world = world
        super().__init__(folder)
        self._base.execute("PRAGMA synchronous = OFF")  # no power cuts here

    @contextmanager
    def changes(self) -> Iterator[None]:
        self._world.operation()
        if self._world.disk_full:
            raise MachineryError("the disk is full")
        with super().changes():
            yield
            self._world.operation()
        self._world.operation()


def schedule(name: str = "nightly", cron: str = "30 2 * * *", zone: str = "Europe/Berlin", **fields) -> Schedule:
    """A schedule of a manifest that does not exist."""
    given = {"source": f"/{name}.jsonl", "is_recipe": False, "output": f"/{name}", **fields}
    return Schedule(name, cron, ZoneInfo(zone), **given)


class Service:
    """A service that is started again after it was killed."""

    def __init__(self, folder: Path, world: World, *schedules: Schedule, parallel: int = 64):
        self.folder, self.world, self.schedules, self.parallel = folder, world, schedules, parallel
        self.up = False
        self.told: list[Tick] = []

    def start(self) -> None:
        self.ledger = CrashingLedger(self.folder, self.world)
        self.scheduler = Scheduler(
            self.schedules,
            self.ledger,
            FakeLauncher(self.world),
            self.world,
            parallel=self.parallel,
            tell=self.told.append,
        )
        self.up = True
        self.scheduler.begin()

    def look(self) -> None:
        """Look once; a service that is not there is started, a killed one is started at the next look."""
        try:
            if not self.up:
                self.start()
            self.scheduler.look()
        except Crash:
            self.kill()

    def kill(self) -> None:
        """The service is gone, and what it had not committed."""
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.up = False

    def rows(self, name: str | None = None) -> list[Tick]:
        """The rows of the ledger in the order of their times."""
        self.kill()
        ledger = Ledger(self.folder)
        try:
            return ledger.latest(name, 1_000_000)[::-1]
        finally:
            ledger.close()


def at(text: str) -> datetime:
    """A time in UTC, like `2026-03-28 23:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
