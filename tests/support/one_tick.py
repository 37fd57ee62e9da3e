"""`wanbatch schedule tick nightly` as a process of its own, with a clock that a test turns by hand.

`main` is what the process does (`schedule_folder.py` starts it). Its folder has the settings file, and in `now` the
time, UTC. The tick runs `scheduled_command.py` in place of wanbatch.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from schedule_service import COMMAND

from wanbatch.errors import WanbatchError
from wanbatch.jobs.schedule.definition import read_schedules
from wanbatch.jobs.schedule.listing import tick_values
from wanbatch.jobs.schedule.one_tick import exit_code, run_tick
from wanbatch.jobs.schedule.service import SystemClock


class ClockInFile(SystemClock):
    """A clock that says what is in a file."""

    def __init__(self, path: Path):
        self._path = path

    def now(self) -> datetime:
        return datetime.fromisoformat(self._path.read_text()).replace(tzinfo=UTC)

    def passed(self) -> float:
        return self.now().timestamp()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 20)


def main(folder: Path) -> None:
    try:
        done = run_tick(
            read_schedules(folder / "wanbatch.toml"),
            "nightly",
            folder / "state",
            folder,
            clock=ClockInFile(folder / "now"),
            wanbatch=COMMAND,
        )
    except WanbatchError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    ticks = [tick_values(each, None, folder / "state") for each in done.ticks]
    print(json.dumps({**tick_values(done.last, None, folder / "state"), "ticks": ticks}))
    sys.exit(exit_code(done.last))
