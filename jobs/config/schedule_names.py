"""What schedules are called in the settings file, and the variables that a scheduled run is given."""

from __future__ import annotations

from collections.abc import Mapping

SCHEDULE_TABLES = ("schedule", "schedules")
"""Tables of the file that are schedules (`wanbatch schedule`), not settings; `schedule` may be a setting as well."""

SCHEDULED_TIME = "WANBATCH_SCHEDULED_TIME"
"""Variable with the time that a scheduled run stands for, by its time zone, like 2026-11-27T02:30:00+01:00."""
SCHEDULED_RUN = "WANBATCH_SCHEDULED_RUN"
"""Variable with the id of a scheduled run: the name of its schedule and its scheduled time."""

TEMPLATE_NAMES = {"scheduled_time": SCHEDULED_TIME, "scheduled_run": SCHEDULED_RUN}
"""What templates of recipes call these variables."""


def scheduled_values(environment: Mapping[str, str]) -> dict[str, str]:
    """What templates of recipes are told of the scheduled run that they are of; nothing if it is none."""
    return {name: environment[variable] for name, variable in TEMPLATE_NAMES.items() if environment.get(variable)}
