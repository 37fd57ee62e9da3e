"""When a schedule is due: Debian's rules where clocks are changed, the same from wherever one starts to look."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_world import at

from wanbatch.errors import UserError
from wanbatch.jobs.schedule.ticks import next_tick, plain_cron, ticks, ticks_between, zone_of

ZONES = ("Europe/Berlin", "Australia/Lord_Howe", "UTC", "America/Santiago")
CRONS = ("30 2 * * *", "0 * * * *", "*/20 * * * *", "0,30 1-3 * * *", "15 0 * * SUN", "59 23 L * *", "30 1 1,15 * *")


def local(cron: str, zone: str, start: str, hours: float) -> list[str]:
    found, _ = ticks_between(cron, zone_of(zone), at(start), at(start) + timedelta(hours=hours), 99)
    return [time.astimezone(zone_of(zone)).strftime("%H:%M %Z") for time in found]


def test_a_night_that_has_no_half_past_two():
    assert local("30 2 * * *", "Europe/Berlin", "2026-03-28 22:00", 8) == ["03:00 CEST"]
    assert local("*/30 2 * * *", "Europe/Berlin", "2026-03-28 22:00", 8) == []
    assert local("30 1-3 * * *", "Europe/Berlin", "2026-03-28 22:00", 8) == ["01:30 CET", "03:00 CEST", "03:30 CEST"]


def test_a_night_that_has_half_past_two_twice():
    assert local("30 2 * * *", "Europe/Berlin", "2026-10-24 22:00", 8) == ["02:30 CEST"]
    assert local("*/30 2 * * *", "Europe/Berlin", "2026-10-24 22:00", 8) == [
        "02:00 CEST", "02:30 CEST", "02:00 CET", "02:30 CET",
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", CRONS)
def test_a_year_is_the_same_in_pieces_as_in_one(cron, zone):
    """Cut right before, at and after each tick, and at every half hour around changes of the clock."""
    where, start, end = zone_of(zone), at("2026-01-01 00:00"), at("2027-01-01 00:00")
    changes = _changes(where, start)
    if cron.startswith(("*", "0")):  # thousands a year
        start, end = at("2026-03-15 00:00"), at("2026-04-10 00:00")
    whole, _ = ticks_between(cron, where, start, end, 10**6)
    assert whole == sorted(set(whole))
    assert all(time.tzinfo is UTC and time.microsecond == 0 for time in whole)
    cuts = {time + timedelta(seconds=seconds) for time in whole[:: len(whole) // 100 + 1] for seconds in (-1, 0, 1)}
    cuts |= {change + timedelta(minutes=30 * n) for change in changes for n in range(-8, 9)}
    for cut in cuts:
        later = bisect_right(whole, cut)
        if start <= cut and later < len(whole):
            assert next_tick(cron, where, cut) == whole[later], cut


def _changes(zone, start: datetime) -> list[datetime]:
    hours = [start + timedelta(hours=n) for n in range(365 * 24)]
    offsets = [hour.astimezone(zone).utcoffset() for hour in hours]
    return [hour for hour, one, other in zip(hours[1:], offsets, offsets[1:], strict=False) if one != other]


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(ZONES),
    st.sampled_from(CRONS),
    st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)),
    st.floats(0, 8),
    st.integers(1, 50),
)
def test_the_latest_ticks_of_a_stretch(zone, cron, start, days, most):
    where, begin = zone_of(zone), start.replace(tzinfo=UTC)
    end = begin + timedelta(days=days)
    found, more = ticks_between(cron, where, begin, end, most)
    whole = []
    for time in ticks(cron, where, begin):
        if time > end:
            break
        whole.append(time)
    assert found == whole[-most:]
    assert more >= (len(whole) > most)


def test_twenty_years_of_minutes_cost_no_more_than_their_end():
    found, more = ticks_between("* * * * *", zone_of("UTC"), at("2006-01-01 00:00"), at("2026-01-01 00:00"), 1000)
    assert (len(found), more, found[-1]) == (1000, True, at("2026-01-01 00:00"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("30 2 * *", "has 4 fields; must have five: minute hour day-of-month month day-of-week"),
        ("0 30 2 * * *", "has 6 fields; must have five"),
        ("61 2 * * *", "minute '61' must be 0 to 59, a list like 1,2"),
        ("61 2 * * *", "; the nearest is 59"),
        ("0 24 * * *", "; the nearest is 23"),
        ("0 0 * * MONDAY", "day-of-week 'MONDAY' must be 0 to 7"),
        ("0 0 31 2 *", "never fires: its months have no day 31"),
        ("0 0 30 FEB *", "never fires: its months have no day 30"),
        ("0 0 31 4,6 */1", "never fires"),
        ("@nightly", "must be five fields, or one of @hourly, @daily"),
        ("", "has 0 fields"),
    ],
)
def test_what_is_no_cron(text, told):
    with pytest.raises(UserError) as caught:
        plain_cron(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_times_are_put_into_fields():
    assert plain_cron("@daily") == "0 0 * * *"
    assert plain_cron("  0   12 * * mon ") == "0 12 * * mon"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin?"),
        ("europe/paris!", "did you mean Europe/Paris?"),
        ("PST", "must be one like Europe/Berlin, America/New_York or UTC"),
        ("../../etc/passwd", "there is none of this name"),
        ("Europe", "there is none of this name"),
        ("", "there is none of this name"),
    ],
)
def test_what_is_no_time_zone(name, told):
    with pytest.raises(UserError) as caught:
        zone_of(name)
    assert told in str(caught.value)


def test_a_machine_without_time_zones(monkeypatch):
    monkeypatch.setattr("wanbatch.jobs.schedule.ticks.available_timezones", set)
    with pytest.raises(UserError, match="no time zone data: pip install tzdata"):
        zone_of("Nowhere/Land")
