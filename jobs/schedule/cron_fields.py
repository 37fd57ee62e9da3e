"""The fields of a cron expression as numbers, for schedulers that write them otherwise. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cronsim import CronSim

from wanbatch.jobs.schedule.ticks import SOME_START


@dataclass(frozen=True, slots=True)
class CronFields:
    """A cron expression.

    Attributes:
        minutes, hours, months: as numbers; months from 1.
        days: of the month, as numbers.
        last_day: whether the last day of the month is one of them.
        last_weekday: whether the last day from Monday to Friday of the month is.
        weekdays: from 0 (Sunday) to 6.
        nth_weekdays: (weekday, which one of the month from 1; -1: the last one).
        every_day, every_weekday: whether the field is `*`.
        both: whether day of the month and weekday must both fit, instead of one of them.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: tuple[int, ...]
    days: tuple[int, ...]
    last_day: bool
    last_weekday: bool
    weekdays: tuple[int, ...]
    nth_weekdays: tuple[tuple[int, int], ...]
    every_day: bool
    every_weekday: bool
    both: bool

    @property
    def any_day(self) -> bool:
        """Whether every day fits: of a day or a weekday one is enough, and one of them always fits, or both do."""
        if self.both:
            return self.every_day and self.every_weekday
        return self.every_day or self.every_weekday

    @property
    def is_plain(self) -> bool:
        """Whether it has nothing but numbers, which every cron knows."""
        return not (self.last_day or self.last_weekday or self.nth_weekdays)


def cron_fields(cron: str) -> CronFields:
    """The fields of a cron expression.

    Args:
        cron: five fields, as from `ticks.plain_cron`.
    """
    found = CronSim(cron, SOME_START)
    plain = {day % 7 for day in found.weekdays if isinstance(day, int)}
    nth = {(day[0] % 7, -1 if day[1] == CronSim.LAST else day[1]) for day in found.weekdays if isinstance(day, tuple)}
    return CronFields(
        minutes=tuple(sorted(found.minutes)),
        hours=tuple(sorted(found.hours)),
        months=tuple(sorted(found.months)),
        days=tuple(sorted(day for day in found.days if day > 0)),
        last_day=CronSim.LAST in found.days,
        last_weekday=CronSim.LAST_WEEKDAY in found.days,
        weekdays=tuple(sorted(plain)),
        nth_weekdays=tuple(sorted(nth)),
        every_day=len(found.days) == 31,
        every_weekday=len(plain) == 7,
        both=found.day_and,
    )


def listed(numbers: tuple[int, ...], every: int) -> str:
    """Numbers as a field: `*` if all are there."""
    return "*" if len(numbers) == every else ",".join(map(str, numbers))
