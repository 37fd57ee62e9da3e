"""`wanbatch schedule export --format systemd`: a timer and a service for each schedule. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from wanbatch.errors import UserError
from wanbatch.jobs.schedule.cron_fields import CronFields, cron_fields, listed
from wanbatch.jobs.schedule.definition import Schedule

DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def systemd_units(schedule: Schedule, command: Sequence[str], folder: str) -> dict[str, str]:
    """The units of a schedule: name of the file -> its text.

    Args:
        schedule: which one.
        command: that runs a tick of it.
        folder: absolute path of the folder in which it is run.

    Raises:
        UserError: Its cron says what no timer can.
    """
    name = f"wanbatch-{schedule.name}"
    times = "".join(f"OnCalendar={calendar} {schedule.zone.key}\n" for calendar in calendars(schedule))
    timer = (
        f"[Unit]\nDescription=wanbatch schedule {schedule.name}: {schedule.cron} {schedule.zone.key}\n\n"
        f"[Timer]\n{times}Persistent={'true' if schedule.catch_up == 'latest' else 'false'}\nAccuracySec=1s\n\n"
        "[Install]\nWantedBy=timers.target\n"
    )
    service = (
        f"[Unit]\nDescription=wanbatch schedule {schedule.name}\nAfter=network-online.target\n"
        "Wants=network-online.target\n\n"
        f"[Service]\nType=oneshot\nWorkingDirectory={_escaped(folder)}\n"
        f"ExecStart={' '.join(map(_quoted, command))}\n"
        "KillMode=mixed\nTimeoutStopSec=120\nSuccessExitStatus=3\n"
    )
    return {f"{name}.timer": timer, f"{name}.service": service}


def calendars(schedule: Schedule) -> Iterator[str]:
    """The times of a schedule as systemd writes them, without the zone; together they are those of its cron.

    Raises:
        UserError: Its cron says what no timer can.
    """
    fields = cron_fields(schedule.cron)
    time = f"{listed(fields.hours, 24)}:{listed(fields.minutes, 60)}:00"
    month = listed(fields.months, 12)
    days, weekdays = list(_days(fields, schedule)), list(_weekdays(fields))
    if fields.any_day:
        pairs = [("", ("", ""))]
    elif fields.both:
        pairs = list(product(days, weekdays))
    else:
        pairs = [(day, ("", "")) for day in days] + [("", weekday) for weekday in weekdays]
    for day, (weekday, among) in pairs:
        if day and among:
            raise _impossible(schedule, "both a day of the month and a weekday counted in the month")
        date = f"{month}-*" if not (day or among) else f"{month}{day or among}"
        yield f"{weekday} *-{date} {time}".strip()


def _days(fields: CronFields, schedule: Schedule) -> Iterator[str]:
    """The days of the month as ends of dates; empty: any."""
    if fields.every_day:
        yield ""
        return
    if fields.days:
        yield f"-{listed(fields.days, 31)}"
    if fields.last_day:
        yield "~1"
    if fields.last_weekday:
        raise _impossible(schedule, "LW, the last weekday of a month")


def _weekdays(fields: CronFields) -> Iterator[tuple[str, str]]:
    """The weekdays by name, and the end of the date that they are bound to; empty: any."""
    if fields.every_weekday:
        yield "", ""
        return
    if fields.weekdays:
        yield ",".join(DAYS[day] for day in fields.weekdays), ""
    for day, number in fields.nth_weekdays:
        yield DAYS[day], "~07/1" if number == -1 else f"-{number * 7 - 6}..{min(number * 7, 31)}"


def _impossible(schedule: Schedule, what: str) -> UserError:
    return UserError(
        f"schedule {schedule.name}: cron {schedule.cron!r}: no timer says {what}: run it with `wanbatch schedule run`"
    )


def _quoted(word: str) -> str:
    """A word of a command as systemd reads it."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_escaped(text)}"' if any(c in text for c in " '\"\\;") or not text else _escaped(text)


def _escaped(text: str) -> str:
    if "\n" in text:
        raise UserError(f"{text!r}: has a line break, which no unit can have: rename it")
    return text.replace("%", "%%")
