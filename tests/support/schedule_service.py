"""A service of schedules as a process of its own, with a clock that runs sixty times as fast from a given time.

    python schedule_service.py FOLDER

FOLDER has the settings file. The clock says 2026-05-01 01:59:50 UTC when the first service of a folder begins, and
goes on from there for later ones. Ticks run `scheduled_command.py` in place of wanbatch.
"""

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
    """A clock that runs fast."""

    def __init__(self, folder: Path):
        began = folder / "began"
        with suppress(FileExistsError), open(began, "x") as file:
            file.write(str(time.time()))
        self._start = float(began.read_text())

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=(time.time() - self._start) * SPEED)

    def passed(self) -> float:
        return (time.time() - self._start) * SPEED

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 20)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
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
