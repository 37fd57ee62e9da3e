"""`schedule tick`, one process a tick as cron starts them: what was interrupted is resumed, whoever was killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from job_making import wait_until
from schedule_folder import ONE_TICK, SERVICE, ScheduleFolder, Started
from schedule_world import Crash, CrashingLedger, FakeLauncher, World, at, schedule

from wanbatch.jobs.schedule import state_folder
from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.one_tick import exit_code, run_tick
from wanbatch.jobs.schedule.service import SystemClock
from wanbatch.jobs.schedule.ticks import ticks_between

MINUTE = timedelta(minutes=1)


class Crontab(ScheduleFolder):
    """A folder with a schedule that is due every minute, and the commands that were started in it."""

    def tick(self, time: str | None = None) -> Started:
        """Start the command, at a time of this day like `02:01:05`."""
        if time is not None:
            self.clock(time)
        return self.start(ONE_TICK)

    def clock(self, time: str) -> None:
        draft = self.folder / "now-draft"
        draft.write_text(f"2026-05-01T{time}")
        draft.replace(self.folder / "now")

    def rows(self) -> list[tuple[str, str, int]]:
        """Minute, state and attempts of each tick, in order."""
        return [(f"{row.time:%H:%M}", row.state, row.attempts) for row in self.ticks()]


@pytest.fixture
def crontab(tmp_path) -> Iterator[Crontab]:
    with Crontab.open(tmp_path) as found:
        yield found


def ended(command: Started) -> tuple[int, dict | None, str]:
    """Exit code, the row that it printed, and what it told."""
    printed, told = command.communicate(timeout=120)
    return command.returncode, json.loads(printed) if printed else None, told


def interrupted(crontab: Crontab, at: str = "02:00:01") -> None:
    """A tick that was stopped while its run went on."""
    before = len(crontab.calls("started"))
    command = crontab.tick(at)
    crontab.started(before + 1)
    command.send_signal(signal.SIGINT)
    code, row, _ = ended(command)
    assert (code, row["state"], row["reason"]) == (130, "interrupted", "stopped with its scheduler")


@pytest.mark.parametrize("code", [0, 3, 6])
def test_the_next_tick_resumes_what_was_interrupted_and_ends_with_its_exit_code(crontab, code):
    interrupted(crontab)
    command = crontab.tick("02:01:02")
    crontab.started(2)
    crontab.let_it_end(code)
    found, row, told = ended(command)
    assert (found, row["exit_code"]) == (code, code)
    assert row["time"] == "2026-05-01T02:00:00Z"
    assert crontab.rows() == [("02:00", "failed" if code == 6 else "ran", 2), ("02:01", "skipped", 0)]
    assert [(each["time"][11:16], each["state"], each["attempts"]) for each in row["ticks"]] == crontab.rows()
    assert "skipped (the run of 2026-05-01 02:00 UTC was about to be resumed)" in told
    found, row, _ = ended(crontab.tick("02:02:00"))
    assert (found, row["time"], row["state"]) == (code, "2026-05-01T02:02:00Z", "failed" if code == 6 else "ran")


def test_what_was_interrupted_expires_after_its_deadline_and_the_next_tick_runs(crontab):
    crontab.set('deadline = "1m"\n')
    interrupted(crontab)
    crontab.let_it_end()
    code, row, told = ended(crontab.tick("02:01:02"))
    assert (code, row["time"], row["state"]) == (0, "2026-05-01T02:01:00Z", "ran")
    assert crontab.rows() == [("02:00", "expired", 1), ("02:01", "ran", 1)]
    assert [(each["time"][11:16], each["state"]) for each in row["ticks"]] == [("02:00", "expired"), ("02:01", "ran")]
    assert "expired at 2026-05-01 02:00 UTC" not in told, "it ended by the clock of the machine"
    assert "was not resumed before its deadline" in told


def test_of_two_ticks_at_once_one_resumes_and_the_other_leaves_it_alone(crontab):
    interrupted(crontab)
    crontab.clock("02:01:02")
    both = [crontab.tick(), crontab.tick()]
    crontab.started(2)
    wait_until(lambda: any(one.poll() is not None for one in both), what="the one that leaves it alone")
    crontab.clock("02:02:01")
    assert ended(crontab.tick())[0] == 0, "nor does one that comes later"
    crontab.let_it_end(3)
    assert sorted(ended(one)[0] for one in both) == [0, 3]
    assert len(crontab.calls("started")) == 2
    assert crontab.rows() == [("02:00", "ran", 2), ("02:01", "skipped", 0), ("02:02", "skipped", 0)]


def test_a_killed_command_whose_run_goes_on_is_waited_for_by_the_next_tick(crontab):
    first = crontab.tick("02:00:01")
    crontab.started(1)
    first.kill()
    first.wait(timeout=30)
    second = crontab.tick("02:01:01")
    wait_until(lambda: len(crontab.rows()) == 2, what="the second tick")
    second.kill()  # while it waits
    second.wait(timeout=30)
    third = crontab.tick("02:02:01")
    wait_until(lambda: len(crontab.rows()) == 3, what="the third tick")
    crontab.let_it_end(3)
    code, row, _ = ended(third)
    assert (code, row["time"], row["attempts"]) == (3, "2026-05-01T02:00:00Z", 1)
    assert crontab.rows() == [("02:00", "ran", 1), ("02:01", "skipped", 0), ("02:02", "skipped", 0)]


def test_a_killed_command_whose_run_is_killed_too_is_begun_again(crontab):
    """As after a power cut: the pause before it begins again is a minute."""
    first = crontab.tick("02:00:01")
    crontab.started(1)
    wait_until(lambda: len(crontab.of_tick(crontab.ticks()[0])) == 2, what="both processes")
    first.kill()
    first.wait(timeout=30)
    for process in crontab.of_tick(crontab.ticks()[0]):
        process.kill()
        process.wait(timeout=30)
    second = crontab.tick("02:01:01")
    wait_until(lambda: crontab.rows() == [("02:00", "interrupted", 1), ("02:01", "skipped", 0)], what="both rows")
    crontab.let_it_end()
    crontab.clock("02:02:02")
    code, row, _ = ended(second)
    assert (code, row["time"], row["attempts"], row["reason"]) == (
        0, "2026-05-01T02:00:00Z", 2, "resumed: 2 attempts",
    )  # fmt: skip


def test_a_queued_tick_comes_after_the_one_that_is_resumed(crontab):
    crontab.set('overlap = "queue"\n')
    interrupted(crontab)
    command = crontab.tick("02:01:02")
    crontab.started(2)
    assert crontab.rows() == [("02:00", "running", 2), ("02:01", "waiting", 0)]
    crontab.let_it_end()
    code, row, _ = ended(command)
    assert (code, row["time"]) == (0, "2026-05-01T02:01:00Z")
    assert crontab.rows() == [("02:00", "ran", 2), ("02:01", "ran", 1)]


def test_a_queued_tick_that_is_stopped_leaves_the_run_of_another_command_alone(crontab):
    crontab.set('overlap = "queue"\n')
    first = crontab.tick("02:00:01")
    crontab.started(1)
    second = crontab.tick("02:01:01")
    wait_until(lambda: ("02:01", "waiting", 0) in crontab.rows(), what="the queued tick")
    second.send_signal(signal.SIGTERM)
    code, row, _ = ended(second)
    assert (code, row["state"]) == (130, "waiting")
    assert crontab.calls("drained") == []
    crontab.let_it_end()
    assert ended(first)[0] == 0
    third = crontab.tick("02:02:01")
    assert ended(third)[0] == 0
    assert crontab.rows() == [("02:00", "ran", 1), ("02:01", "ran", 1), ("02:02", "ran", 1)]


def test_a_service_resumes_what_a_tick_left_and_no_tick_runs_beside_it(crontab):
    interrupted(crontab, "01:59:55")
    service = crontab.start(SERVICE)
    crontab.started(2)
    code, _, told = ended(crontab.tick("02:00:05"))
    assert (code, "another `wanbatch schedule run`" in told) == (4, True)
    service.kill()
    service.wait(timeout=30)
    after = crontab.tick("04:00:05")  # the service's clock runs fast, and is not there yet
    wait_until(lambda: crontab.rows()[-1] == ("04:00", "skipped", 0), what="the tick that looks after it")
    crontab.let_it_end()
    assert ended(after)[0] == 0
    assert len(crontab.calls("started")) == 2
    assert crontab.rows()[0] == ("01:59", "ran", 2)


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("ran", 0, 0),
        ("ran", 3, 3),
        ("skipped", None, 0),
        ("failed", 2, 2),
        ("failed", -9, 75),
        ("expired", None, 75),
        ("expired", 130, 130),
        ("interrupted", 130, 130),
        ("interrupted", None, 130),
        ("waiting", 75, 75),
        ("running", None, 130),
    ],
)
def test_exit_codes(state, code, expected):
    time = datetime(2026, 5, 1, tzinfo=UTC)
    assert exit_code(Tick("nightly", time, state, "", time, exit_code=code)) == expected


class CrontabClock(SystemClock):
    """The world's clock, which goes on while a command sleeps; the command may be told to stop then."""

    def __init__(self, world: World):
        self._world, self.stop_after = world, -1

    def now(self) -> datetime:
        return self._world.time

    def passed(self) -> float:
        return self._world.awake

    def sleep(self, seconds: float) -> None:
        self._world.go_on(20)
        self.stop_after -= 1
        if self.stop_after == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("overlap", ["skip", "queue"])
@pytest.mark.parametrize("commands", [120, pytest.param(300, marks=pytest.mark.slow)])
def test_ticks_that_are_killed_between_any_two_operations_stopped_and_cut_off(
    tmp_path, monkeypatch, commands, overlap
):
    """A command each half hour, as cron starts it; each second one is killed, stopped or loses its run, too."""
    world = World(at("2026-05-01 00:00"), seconds=lambda tick: 600)
    monkeypatch.setattr(state_folder, "Ledger", lambda folder, read_only: CrashingLedger(folder, world))
    one, clock = schedule(cron="*/30 * * * *", zone="UTC", overlap=overlap), CrontabClock(world)
    killed = stopped = 0
    for number in range(commands):
        world.time = max(world.time, at("2026-05-01 00:00") + timedelta(minutes=30 * number, seconds=1))
        troubled = number % 2 and number < commands - 10
        world.crash_at = 1 + (number // 4) % 23 if troubled and number % 4 == 1 else None
        clock.stop_after = 1 + number % 5 if troubled and number % 4 == 3 else -1
        try:
            row = run_tick([one], one.name, tmp_path, tmp_path, clock=clock, launcher=FakeLauncher(world)).last
            stopped += row.is_open
        except Crash:
            killed += 1
            if number % 8 == 1:
                world.power_cut()
    assert killed > commands // 8
    assert stopped > commands // 15
    ledger = Ledger(tmp_path)
    rows = ledger.latest(one.name, 1000)[::-1]
    ledger.close()
    assert [row.time for row in rows] == ticks_between(one.cron, one.zone, rows[0].time - MINUTE, world.time, 1000)[0]
    for row in rows:
        key = (row.schedule, row.time)
        assert row.state in ("ran", "skipped", "missed"), row
        assert world.made[key] == (row.state == "ran"), row
        assert row.state == "ran" or world.started[key] == 0, row
    assert world.overlaps == []
    assert sum(row.state == "ran" for row in rows) > commands // 2
    assert sum(row.attempts > 1 for row in rows) > commands // 6
