"""`wanbatch schedule export --format cron`: lines for a crontab. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from wanbatch.errors import UserError
from wanbatch.jobs.schedule.cron_fields import cron_fields
from wanbatch.jobs.schedule.definition import Schedule

HEADING = """\
# The fields are read by the clock of the zone in CRON_TZ where cron knows that variable (cronie: Fedora, RHEL, Arch).
# Debian's and Ubuntu's cron does not: there the machine's own zone counts, so set that to the zone below, or use
# systemd timers. A tick that is started hours away from its time is refused or recorded as late.
"""


def crontab(schedules: Sequence[tuple[Schedule, Sequence[str]]], folder: str) -> str:
    """Lines for a crontab.

    Args:
        schedules: each with the command that runs a tick of it.
        folder: absolute path of the folder in which they are run.

    Raises:
        UserError: A cron says what the crontab of no other cron can.
    """
    lines = [HEADING]
    for one, command in schedules:
        if not cron_fields(one.cron).is_plain:
            raise UserError(
                f"schedule {one.name}: cron {one.cron!r}: L and # are not known to other crons: run it with "
                "`wanbatch schedule run`, or export it for systemd"
            )
        words = f"cd {shlex.quote(folder)} && {shlex.join(command)}"
        if "\n" in words:
            raise UserError(f"{folder!r}: has a line break, which no crontab can have: rename it")
        escaped = words.replace("%", "\\%")
        lines.append(f"# {one.name}\nCRON_TZ={one.zone.key}\n{one.cron} {escaped}\n")
    return "\n".join(lines)
