"""The command that a tick runs: a manifest's rows or a recipe's are made, here or on a cluster. Pure."""

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
    drop = ["--drop-removed"] if schedule.drop_removed else []
    if schedule.is_recipe:
        words = ["augment", schedule.source, "--run", "--out", schedule.output]
        cluster = [] if schedule.address is None else ["--submit-to", schedule.address]
        return [[*wanbatch, *words, *cluster, *drop, *schedule.flags]]
    earlier = [*(["--rerun-changed"] if schedule.rerun_changed else []), *drop]
    if schedule.address is None:
        return [[*wanbatch, "run", schedule.source, "--out", schedule.output, *earlier, *schedule.flags]]
    words = ["submit", schedule.source, "--out", schedule.output, "--address", schedule.address, *earlier]
    return [[*wanbatch, *words, *schedule.flags]]


def tick_environment(schedule: Schedule, time: datetime) -> dict[str, str]:
    """The variables that a tick's commands see besides those of the service."""
    return {
        SCHEDULED_TIME: time.astimezone(schedule.zone).isoformat(),
        SCHEDULED_RUN: f"{schedule.name}-{stamp(time)}",
    }
