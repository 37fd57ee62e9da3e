"""A service of schedules as a process of its own, with a clock that runs sixty times as fast from a given time.

`main` is what the process does (`schedule_folder.py` starts it). Its folder has the settings file. The clock says
2026-05-01 01:59:50 UTC until the first service of a folder waits for the first time, however long it took to begin,
and goes on from there for later ones. Ticks run `scheduled_command.py` in place of wanbatch.
"""

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wanbatch.errors import WanbatchError
from wanbatch.jobs.schedule.definition import read_schedules
from wanbatch.jobs.schedule.service import SystemClock, serve

SPEED = 60
BEGIN = datetime(2026, 5, 1, 1, 59, 50, tzinfo=UTC)
COMMAND = (sys.executable, "-S", str(Path(__file__).with_name("scheduled_command.py")))


class FastClock(SystemClock):
    """A clock that runs fast, once it runs."""

    def __init__(self, folder: Path):
        self._began = folder / "began"

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.passed())

    def passed(self) -> float:
        try:
            return (time.time() - float(self._began.read_text())) * SPEED
        except FileNotFoundError:
            return 0.0

    def sleep(self, seconds: float) -> None:
        if not self._began.exists():
            draft = self._began.with_name(f"began-{os.getpid()}")
            draft.write_text(str(time.time()))
            with suppress(FileExistsError):
                os.link(draft, self._began)
            draft.unlink()
        time.sleep(seconds / 20)


def main(folder: Path) -> None:
    try:
        serve(
            read_schedules(folder / "wanbatch.toml"),
            folder / "state",
            folder,
            clock=FastClock(folder),
            wanbatch=COMMAND,
        )
    except WanbatchError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
