"""When a schedule is due: the instants that a cron expression means in a time zone, by Debian's rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.suggestions import did_you_mean

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
BOUNDS = {"minute": (0, 59), "hour": (0, 23), "day-of-month": (1, 31), "month": (1, 12), "day-of-week": (0, 7)}
FIELDS = {  # of a cron expression: what it may hold
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, or L for the last day",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, where 0 and 7 are Sunday, or SUN to SAT",
}
SOME_START = datetime(2000, 1, 1, tzinfo=UTC)
FIRST_STRETCH = timedelta(hours=1)


def plain_cron(text: str) -> str:
    """A cron expression in its five fields.

    Args:
        text: as a user gave it; `@daily` and the like are put into fields.

    Raises:
        UserError: It is none, or no date ever fits it; the message says which field and what that takes.
    """
    cron = " ".join(text.split())
    if cron.startswith("@"):
        if (fields := ALIASES.get(cron.lower())) is None:
            raise UserError(
                f"cron {text!r}: must be five fields, or one of {', '.join(ALIASES)}{did_you_mean(cron, ALIASES)}"
            )
        return fields
    if len(found := cron.split()) != len(FIELDS):
        raise UserError(
            f"cron {text!r}: has {number_of(len(found), 'fields')}; must have five: {' '.join(FIELDS)}, like '30 "
            f"2 * * *' for half past two every night"
        )
    try:
        next(CronSim(cron, SOME_START))
    except CronSimError as error:
        raise UserError(f"cron {text!r}: {_wrong_field(str(error), found)}") from None
    except StopIteration:
        raise UserError(
            f"cron {text!r}: never fires: no date is like that within 50 years: change its days or its months"
        ) from None
    return cron


def _wrong_field(error: str, fields: list[str]) -> str:
    name = error.removeprefix("Bad ")
    if name not in FIELDS:
        return error
    value = fields[list(FIELDS).index(name)]
    if (
        name == "day-of-month"
        and value.replace(",", "").isdigit()
        and all(1 <= int(d) <= 31 for d in value.split(","))
    ):
        return f"never fires: its months have no day {value}: change its day-of-month or its month"
    near = ""
    if value.isdigit():
        least, most = BOUNDS[name]
        near = f"; the nearest is {min(max(int(value), least), most)}"
    rule = f"{FIELDS[name]}, a list like 1,2, a range like 1-5, or * with a step like */5"
    return f"{name} {value!r} must be {rule}{near}"


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name in the IANA database.

    Raises:
        UserError: There is none of this name, or no database on this machine.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
    if not known:
        raise UserError(f"timezone {name!r}: this machine has no time zone data: pip install tzdata")
    raise UserError(
        f"timezone {name!r}: there is none of this name; must be one like Europe/Berlin, America/New_York or UTC"
        f"{did_you_mean(name, sorted(known))}"
    )


def ticks(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants at which a schedule is due, in order, each once.

    As in Debian's cron: a fixed time of day that is left out when clocks go forward comes right after the gap, one
    that comes twice when they go back counts the first time; expressions with `*` in minute or hour follow the clock.

    Args:
        cron: five fields, as from `plain_cron`.
        zone: whose clock the fields are read by.
        after: UTC; only later instants.

    Yields:
        Times in UTC, without fractions of a second.
    """
    last = after
    for local in CronSim(cron, after.astimezone(zone)):
        instant = local.astimezone(UTC)
        if instant > last:
            last = instant
            yield instant


def next_tick(cron: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first instant after another one at which a schedule is due; None: there is none for 50 years."""
    return next(ticks(cron, zone, after), None)


def ticks_between(
    cron: str, zone: ZoneInfo, after: datetime, until: datetime, most: int
) -> tuple[list[datetime], bool]:
    """The latest instants in a stretch of time at which a schedule is due, at a cost that does not grow with it.

    Args:
        cron, zone: as for `ticks`.
        after, until: UTC; later than the one, not later than the other.
        most: how many are wanted.

    Returns:
        The instants in order; and whether there are earlier ones that were left out.
    """
    stretch = FIRST_STRETCH
    while True:
        start = max(after, until - stretch)
        found: list[datetime] = []
        for instant in ticks(cron, zone, start):
            if instant > until:
                break
            found.append(instant)
        if start == after or len(found) > most:
            return found[-most:], len(found) > most or start > after
        stretch *= 4
