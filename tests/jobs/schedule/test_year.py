"""A year of ticks with a clock turned by hand: each tick runs once, or its row says why not, whatever is killed."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from schedule_world import Service, World, at, schedule

from wanbatch.errors import MachineryError
from wanbatch.jobs.schedule.ticks import ticks_between

ZONES = {"berlin": "Europe/Berlin", "york": "America/New_York", "howe": "Australia/Lord_Howe"}
START, END = at("2026-01-01 00:00"), at("2027-01-01 00:00")
STEP = 20.0  # seconds between two looks while something goes on


def live(service: Service, end: datetime) -> None:
    """Let the service look until the end, whenever something may have happened."""
    world = service.world
    while world.time < end:
        service.look()
        world.go_on(_quiet(service, end))


def _quiet(service: Service, end: datetime) -> float:
    """Seconds until the next tick, the next end of a process, or the next start after a pause."""
    if not service.up:
        return STEP
    times = [end, *service.world.alive.values(), service.scheduler.next_time() or end]
    times += [tick.not_before for tick in service.ledger.open_ticks() if tick.not_before]
    later = [time for time in times if time > service.world.time]
    return max(1.0, (min(later, default=end) - service.world.time).total_seconds())


def check_each_tick(service: Service, start: datetime = START) -> None:
    """Every tick of every schedule has one row; one that ran was run to its end once, and nothing ran beside it."""
    world = service.world
    for one in service.schedules:
        rows = service.rows(one.name)
        due, more = ticks_between(one.cron, one.zone, start, world.time, 10**6)
        assert not more
        assert [row.time for row in rows] == due
        for row in rows:
            key = (row.schedule, row.time)
            assert row.state in ("ran", "skipped", "missed", "expired"), row
            assert row.state == "ran" or row.reason, row
            assert world.ended[key] == (row.state == "ran"), row
            assert row.state == "ran" or world.started[key] == 0 or row.attempts, row
    assert world.overlaps == []


@pytest.mark.parametrize(("zone", "catch_up"), [*((zone, "latest") for zone in ZONES), ("berlin", "none")])
def test_a_year_of_nights_killed_between_any_two_operations(tmp_path, zone, catch_up):
    """The service is killed after 1, 2, 3, ... operations, over and over: before and after each of its writes."""
    world = World(START, seconds=lambda tick: 45)
    service = Service(tmp_path, world, schedule(zone=ZONES[zone], catch_up=catch_up))
    service.start()
    kills = 0
    while world.time < END:
        world.crash_at = world.crash_at or 1 + kills % 17
        service.look()
        kills += not service.up
        world.go_on(_quiet(service, END))
    world.crash_at = None
    live(service, world.time + timedelta(hours=2))
    check_each_tick(service)
    assert kills > 365
    rows = service.rows()
    assert sum(row.state == "ran" for row in rows) > (360 if catch_up == "latest" else 200)


@pytest.mark.parametrize(
    ("seed", "days"), [(0, 60), *(pytest.param(seed, 365, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_a_year_with_everything_that_happens_to_machines(tmp_path, seed, days):
    """Kills, power cuts, days without the service, sleep, clocks set forth and back, disks that are full."""
    chance = random.Random(seed)
    world = World(
        START, seconds=lambda tick: 3600 * (tick.time.day % 4), code=lambda tick: chance.choice([0, 0, 3, 75])
    )
    service = Service(
        tmp_path,
        world,
        *(schedule(name, "30 */6 * * *", zone, deadline=timedelta(hours=3)) for name, zone in ZONES.items()),
        schedule("queued", "0 2-4 * * MON-FRI", "Europe/Berlin", overlap="queue", deadline=timedelta(hours=9)),
    )
    service.start()
    while world.time < START + timedelta(days=days):
        live(service, world.time + timedelta(hours=chance.uniform(1, 60)))
        world.disk_full = False
        what = chance.choice(["kill", "power", "away", "sleep", "forward", "back", "full", "crash"])
        if what in ("kill", "power", "away"):
            service.kill()
        if what == "power":
            world.power_cut()
        if what == "away":
            world.go_on(chance.uniform(60, 200_000))
        if what == "sleep":
            world.go_on(chance.uniform(60, 100_000), asleep=True)
        if what in ("forward", "back"):
            world.go_on(1, set_clock=chance.uniform(1, 8000) * (1 if what == "forward" else -1))
        if what == "full":
            _full_disk(service)
        world.crash_at = chance.randint(1, 30) if what == "crash" else None
    world.code = lambda tick: 0
    live(service, world.time + timedelta(days=2))
    names = {row.schedule for row in service.rows()}
    assert names == {*ZONES, "queued"}
    for one in service.schedules:
        rows = [row for row in service.rows(one.name) if row.time <= world.time]
        due, _ = ticks_between(one.cron, one.zone, START, world.time, 10**6)
        assert [row.time for row in rows] == due
        for row in rows:
            made = world.made[row.schedule, row.time]
            assert made <= 1 if row.is_open else made == (row.state == "ran"), row
            assert world.ended[row.schedule, row.time] <= row.attempts
            assert row.state == "ran" or row.is_open or row.reason
            if row.state in ("skipped", "missed"):
                assert world.started[row.schedule, row.time] == 0, row
    assert world.overlaps == []
    assert {row.state for row in service.rows()} >= {"ran", "skipped", "missed", "failed"}


def _full_disk(service: Service) -> None:
    """Nothing can be written for some hours, and nothing is started that could not be noted."""
    world = service.world
    world.disk_full = True
    before = world.started.total()
    for _ in range(50):
        with suppress(MachineryError):
            service.look()
        world.go_on(600)
    assert world.started.total() == before
    world.disk_full = False
