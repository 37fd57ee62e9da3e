"""What schedules are called in the settings file, and the variables that a scheduled run is given."""

from __future__ import annotations

SCHEDULE_TABLES = ("schedule", "schedules")
"""Tables of the file that are schedules (`wanbatch schedule`), not settings; `schedule` may be a setting as well."""

SCHEDULED_TIME = "WANBATCH_SCHEDULED_TIME"
"""Variable with the time that a scheduled run stands for, by its time zone, like 2026-11-27T02:30:00+01:00."""
SCHEDULED_RUN = "WANBATCH_SCHEDULED_RUN"
"""Variable with the id of a scheduled run: the name of its schedule and its scheduled time."""
