"""Commands that share a ledger, each of which runs one tick, and come in the same moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from schedule_world import FakeLauncher, World, schedule

from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.scheduler import Scheduler

DUE = datetime(2026, 11, 27, 1, 30, tzinfo=UTC)


class OvertakenLedger(Ledger):
    """A ledger whose command is overtaken by another one just after it has looked what is decided already."""

    other: Callable[[], None] | None = None

    def find(self, schedule: str, times: Sequence[datetime]) -> dict[datetime, Tick]:
        found = super().find(schedule, times)
        other, self.other = self.other, None
        if other is not None:
            other()
        return found


def test_a_tick_that_two_commands_run_at_once_is_run_once(tmp_path):
    """As two crons, or a cron and a person, that call `wanbatch schedule tick` in the same moment."""
    world, late = World(DUE + timedelta(seconds=1)), OvertakenLedger(tmp_path)
    told: list[Tick] = []
    first, second = (
        Scheduler([schedule()], ledger, FakeLauncher(world), world, only="nightly", tell=told.append)
        for ledger in (Ledger(tmp_path), late)
    )
    for one in (first, second):
        one.begin()

    def overtake() -> None:
        first.admit("nightly", DUE)
        first.look()

    late.other = overtake
    assert second.admit("nightly", DUE).state == "running"
    for _ in range(900):
        first.look()
        second.look()
        world.go_on(1)
    assert world.started == {("nightly", DUE): 1}
    assert late.find("nightly", [DUE])[DUE].state == "ran"
    assert [row.state for row in told if row.time == DUE][:2] == ["waiting", "running"]


def test_what_was_missed_may_run_after_all_and_what_was_decided_stays(tmp_path):
    ledger = Ledger(tmp_path)
    times = [DUE + timedelta(days=days) for days in range(3)]
    with ledger.changes():
        ledger.write([Tick("nightly", times[0], "missed", "", DUE), Tick("nightly", times[1], "ran", "", DUE, 1)])
    with ledger.changes():
        written = ledger.add([Tick("nightly", time, "waiting", "now", DUE) for time in times])
    assert [row.time for row in written] == [times[0], times[2]]
    assert [ledger.find("nightly", times)[time].state for time in times] == ["waiting", "ran", "waiting"]
    assert ledger.find("nightly", times)[times[1]].attempts == 1
