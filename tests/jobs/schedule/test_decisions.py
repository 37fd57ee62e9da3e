"""What becomes of ticks that are late, overlap, fail, or whose clock was set: the rows that the ledger gets."""

from __future__ import annotations

from datetime import timedelta

import pytest
from schedule_world import Service, World, at, schedule

from wanbatch.jobs.schedule.decisions import pause_after


def rows_of(service: Service) -> list[tuple]:
    return [(row.time.strftime("%d %H:%M"), row.state, row.reason) for row in service.rows()]


def service_at(tmp_path, start: str, *schedules, parallel: int = 64, **world) -> Service:
    service = Service(tmp_path, World(at(start), **world), *schedules, parallel=parallel)
    service.look()
    return service


def pass_minutes(service: Service, *minutes: float) -> None:
    """Look, some minutes later each time."""
    for some in minutes:
        service.world.go_on(some * 60)
        service.look()


DAILY = {"cron": "0 2 * * *", "zone": "UTC"}
HOURLY = {"cron": "0 * * * *", "zone": "UTC"}


def test_a_tick_on_time(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY))
    pass_minutes(service, 1, 30)
    [row] = service.rows()
    assert (row.run_id, row.state, row.attempts, row.exit_code) == ("nightly-20260501T020000Z", "ran", 1, 0)
    assert (row.started, row.ended) == (at("2026-05-01 02:00"), at("2026-05-01 02:30"))


def test_the_first_start_catches_nothing_up(tmp_path):
    service = service_at(tmp_path, "2026-05-01 02:05", schedule(**DAILY))
    pass_minutes(service, 5)
    assert service.rows() == []


def test_missed_ones_while_the_service_was_down(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:00", schedule(**DAILY))
    service.kill()
    pass_minutes(service, 60 * 24 * 3 + 90, 30)
    was = "the service was not running"
    made = "; the run of 2026-05-04 02:00 UTC was made in its place"
    assert rows_of(service) == [
        *((f"{day} 02:00", "missed", was + made) for day in ("01", "02", "03")),
        ("04 02:00", "ran", f"run late: {was}"),
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"catch_up": "none"}, "the service was not running; missed ones are not caught up"),
        ({"deadline": timedelta(minutes=20)}, "the service was not running; its deadline had passed"),
    ],
)
def test_missed_ones_that_are_not_caught_up(tmp_path, fields, told):
    service = service_at(tmp_path, "2026-05-01 01:00", schedule(**DAILY, **fields))
    service.kill()
    pass_minutes(service, 90, 30)
    assert rows_of(service) == [("01 02:00", "missed", told)]


def test_a_machine_that_slept(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:00", schedule(**DAILY))
    service.world.go_on(2 * 3600, asleep=True)
    service.look()
    pass_minutes(service, 20)
    assert rows_of(service) == [("01 02:00", "ran", "run late: the machine slept, or its clock was set forward")]


def test_a_clock_that_is_set_back_runs_nothing_twice(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**HOURLY))
    pass_minutes(service, 1, 20)
    service.world.go_on(1, set_clock=-3600)
    pass_minutes(service, 0, 39, 1, 20, 40, 20)
    assert [(row.time.hour, row.state) for row in service.rows()] == [(2, "ran"), (3, "ran")]
    assert service.world.started.total() == 2


def test_a_clock_that_was_years_ahead_for_a_moment(tmp_path):
    """Ticks that were missed while it was wrong are due again when their time really comes."""
    service = service_at(tmp_path, "2026-05-01 01:30", schedule(**DAILY, catch_up="none"))
    years = 10 * 365 * 86400
    service.world.go_on(1, set_clock=years)
    service.look()
    service.world.go_on(1, set_clock=-years)
    pass_minutes(service, 0, 30, 20)
    assert [(row.time.year, row.state) for row in service.rows()] == [(2026, "ran")]


def test_a_long_absence_has_one_row_for_what_is_too_old(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:30", schedule(cron="* * * * *", zone="UTC"))
    service.kill()
    pass_minutes(service, 60 * 24 * 30)
    first, *rest = service.rows()
    assert (first.time, first.state) == (at("2026-05-01 01:31"), "missed")
    assert "this row stands for all ticks from here until before 2026-05-30" in first.reason
    assert len(rest) == 1000
    assert rest[0].time.strftime("%Y-%m-%d %H:%M") in first.reason


def test_one_that_still_runs_has_the_next_skipped(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**HOURLY), seconds=lambda tick: 5400)
    pass_minutes(service, 1, 60, 40, 20)
    assert rows_of(service) == [
        ("01 02:00", "ran", ""),
        ("01 03:00", "skipped", "the run of 2026-05-01 02:00 UTC still ran"),
        ("01 04:00", "running", ""),
    ]


def test_one_that_still_runs_has_the_next_queued(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**HOURLY, overlap="queue"), seconds=lambda tick: 5400)
    pass_minutes(service, 1, 60, 40, 20, 60)
    states = {row.time.hour: row.state for row in service.rows()}
    assert states == {2: "ran", 3: "running", 4: "waiting", 5: "waiting"}
    assert service.world.overlaps == []


def test_one_that_waits_too_long_in_the_queue(tmp_path):
    one = schedule(**HOURLY, overlap="queue", deadline=timedelta(minutes=50))
    service = service_at(tmp_path, "2026-05-01 01:59", one, seconds=lambda tick: 3600 * 2.5)
    pass_minutes(service, 1, 60, 55)
    assert rows_of(service)[1] == ("01 03:00", "expired", "could not start before its deadline")


def test_schedules_take_turns_on_one_machine(tmp_path):
    """Another one's run is no reason to skip: it is waited for."""
    both = [schedule(name, **HOURLY) for name in ("one", "two")]
    service = service_at(tmp_path, "2026-05-01 01:59", *both, parallel=1)
    pass_minutes(service, 1)
    assert {row.schedule: row.state for row in service.rows()} == {"one": "running", "two": "waiting"}
    service.look()
    pass_minutes(service, 20, 20)
    assert {row.schedule: (row.state, row.reason) for row in service.rows()} == {
        "one": ("ran", ""),
        "two": ("ran", ""),
    }


def test_jobs_on_a_cluster_take_no_turns(tmp_path):
    both = [schedule(name, **HOURLY, address="http://head:8265") for name in ("one", "two")]
    service = service_at(tmp_path, "2026-05-01 01:59", *both, parallel=1)
    pass_minutes(service, 1)
    assert {row.state for row in service.rows()} == {"running"}


@pytest.mark.parametrize("code", [75, 4, -9, 137])
def test_the_machinery_is_tried_again_within_the_deadline(tmp_path, code):
    codes = [code, code, 0]
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY), code=lambda tick: codes[tick.attempts - 1])
    pass_minutes(service, 1, 20, 0.5)
    [row] = service.rows()
    assert (row.state, row.exit_code, row.not_before) == ("waiting", code, at("2026-05-01 02:21"))
    service.look()
    pass_minutes(service, 1, 20, 1.9, 0.2, 20)
    [row] = service.rows()
    assert (row.state, row.attempts, row.exit_code) == ("ran", 3, 0)
    assert row.reason == "resumed: 3 attempts"


def test_the_machinery_is_not_tried_after_the_deadline(tmp_path):
    service = service_at(
        tmp_path, "2026-05-01 01:59", schedule(**DAILY, deadline=timedelta(minutes=30)), code=lambda tick: 75
    )
    pass_minutes(service, 1, 20, 2, 20, 60)
    [row] = service.rows()
    assert (row.state, row.attempts, row.exit_code) == ("failed", 2, 75)
    assert row.reason == "the machinery failed; its deadline passed before it could run again"


@pytest.mark.parametrize(
    ("code", "state", "told"),
    [
        (3, "ran", "some rows could not be made"),
        (2, "failed", "bad usage, settings or manifest: see its log"),
        (5, "failed", "stopped by max_failures"),
        (6, "failed", "images failed alike"),
        (130, "failed", "interrupted by somebody else"),
        (99, "failed", "see its log"),
    ],
)
def test_other_exit_codes_are_recorded(tmp_path, code, state, told):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY), code=lambda tick: code)
    pass_minutes(service, 1, 20, 20)
    [row] = service.rows()
    assert (row.state, row.attempts, row.exit_code) == (state, 1, code)
    assert told in row.reason


def test_a_run_that_goes_on_without_the_service(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY))
    pass_minutes(service, 1)
    service.kill()
    pass_minutes(service, 5)
    assert [row.state for row in service.rows()] == ["running"]
    service.kill()
    pass_minutes(service, 20)
    [row] = service.rows()
    assert (row.state, row.attempts, row.reason) == ("ran", 1, "")


def test_a_run_that_a_power_cut_ended_is_resumed(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY))
    pass_minutes(service, 1)
    service.kill()
    service.world.power_cut()
    pass_minutes(service, 60)
    [row] = service.rows()
    assert row.state == "interrupted"
    assert "its process was gone: it was killed, or the machine stopped; is started again" in row.reason
    service.look()
    pass_minutes(service, 2, 20)
    [row] = service.rows()
    assert (row.state, row.attempts, row.reason) == ("ran", 2, "resumed: 2 attempts")


def test_a_run_that_was_stopped_with_the_service(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY))
    pass_minutes(service, 1)
    service.scheduler.stop()
    service.scheduler.settle()
    [row] = service.rows()
    assert (row.state, row.exit_code, row.reason) == ("interrupted", 130, "stopped with its scheduler")
    pass_minutes(service, 60, 20)
    [row] = service.rows()
    assert (row.state, row.attempts) == ("ran", 2)


def test_a_stopped_run_that_is_not_resumed_in_time(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY))
    pass_minutes(service, 1)
    service.scheduler.stop()
    service.scheduler.settle()
    service.kill()
    pass_minutes(service, 60 * 13)
    [row] = service.rows()
    assert (row.state, row.reason) == (
        "expired",
        "stopped with its scheduler; was not resumed before its deadline",
    )


def test_a_cron_that_was_changed_while_the_service_was_down(tmp_path):
    """What was missed, was by the old cron; the new one counts from now on."""
    service = service_at(tmp_path, "2026-05-01 01:30", schedule(**DAILY))
    service.kill()
    service.schedules = (schedule(**HOURLY),)
    pass_minutes(service, 60 * 24 * 2, 31)
    told = "the service was not running, and its cron was changed since"
    assert rows_of(service) == [
        ("01 02:00", "missed", told),
        ("02 02:00", "missed", told),
        ("03 02:00", "running", ""),
    ]


def test_a_schedule_that_was_taken_out(tmp_path):
    other = schedule("other", **HOURLY)
    service = service_at(
        tmp_path, "2026-05-01 01:59", schedule(**HOURLY, overlap="queue"), other, seconds=lambda tick: 5400
    )
    pass_minutes(service, 1, 60)
    service.kill()
    service.schedules = (other,)
    pass_minutes(service, 40)
    found = {(row.time.hour, row.state) for row in service.rows("nightly")}
    assert found == {(2, "ran"), (3, "expired")}


def test_a_full_disk_starts_nothing_and_is_made_good(tmp_path):
    service = service_at(tmp_path, "2026-05-01 01:59", schedule(**DAILY))
    service.world.disk_full = True
    for _ in range(3):
        with pytest.raises(Exception, match="the disk is full"):
            pass_minutes(service, 10)
    assert service.world.started.total() == 0
    service.world.disk_full = False
    pass_minutes(service, 10, 20)
    assert rows_of(service) == [("01 02:00", "ran", "run late: the service was held up")]


def test_pauses_grow_to_a_quarter_of_an_hour():
    minutes = [pause_after(attempts).total_seconds() / 60 for attempts in (1, 2, 3, 4, 5, 50, 10_000)]
    assert minutes == [1, 2, 4, 8, 15, 15, 15]
