"""The commands that a tick runs: a recipe's manifest is made, then its rows, here or on a cluster. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from wanbatch.jobs.config.schedule_names import SCHEDULED_RUN, SCHEDULED_TIME
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.ledger import stamp

THIS_WANBATCH = (sys.executable, "-m", "wanbatch.jobs.cli")


def tick_commands(schedule: Schedule, wanbatch: Sequence[str] = THIS_WANBATCH) -> list[list[str]]:
    """What a tick of a schedule runs, one after the other.

    Args:
        schedule: whose tick it is.
        wanbatch: the words that start wanbatch.
    """
    commands = []
    if schedule.is_recipe:
        commands.append([*wanbatch, "augment", schedule.source, "--out", schedule.manifest])
    verb = ["run"] if schedule.address is None else ["submit"]
    where = [] if schedule.address is None else ["--address", schedule.address]
    again = ["--rerun-changed"] if schedule.rerun_changed else []
    commands.append([*wanbatch, *verb, schedule.manifest, "--out", schedule.output, *where, *again, *schedule.flags])
    return commands


def tick_environment(schedule: Schedule, time: datetime) -> dict[str, str]:
    """The variables that a tick's commands see besides those of the service."""
    return {
        SCHEDULED_TIME: time.astimezone(schedule.zone).isoformat(),
        SCHEDULED_RUN: f"{schedule.name}-{stamp(time)}",
    }
