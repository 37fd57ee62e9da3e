"""A folder with a schedule, and the real processes in it: services, commands of one tick, their runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
from job_making import wait_until

from wanbatch.jobs.schedule.launcher import ProcessLauncher
from wanbatch.jobs.schedule.ledger import Ledger, Tick

SUPPORT = Path(__file__).parent
SERVICE, ONE_TICK = SUPPORT / "schedule_service.py", SUPPORT / "one_tick.py"
SETTINGS = """
[schedule.nightly]
cron = "{cron}"
timezone = "UTC"
manifest = "shop.jsonl"
output = "out"
"""


class ScheduleFolder:
    """The folder of a schedule `nightly`; its runs are those of `scheduled_command.py`.

    Attributes:
        processes: that were started in it, services and commands, not their runs.
    """

    CRON = "* * * * *"

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: list[subprocess.Popen] = []
        self.set()

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        """While this lasts; whatever still goes on afterwards is killed."""
        found = cls(folder)
        yield found
        found.let_it_end()
        for process in found.processes:
            process.kill()
            process.communicate(timeout=30)
        for call in found.calls("started"):
            if psutil.pid_exists(call["pid"]):
                os.kill(call["pid"], signal.SIGKILL)

    def set(self, more: str = "") -> None:
        """Write the schedule. more: keys of it."""
        (self.folder / "wanbatch.toml").write_text(SETTINGS.format(cron=self.CRON) + more)

    def start(self, script: Path) -> subprocess.Popen:
        """Start a service or a command."""
        pipe = subprocess.PIPE
        command = [sys.executable, str(script), str(self.folder)]
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        self.processes.append(process)
        return process

    def calls(self, what: str) -> list[dict]:
        """What runs have noted, of one kind: `started`, `drained` or `ended`."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call["what"] == what]

    def started(self, count: int) -> None:
        """Wait until runs were started so often."""
        wait_until(lambda: len(self.calls("started")) == count, what=f"run {count}")

    def let_it_end(self, code: int = 0) -> None:
        """Let runs end, the one that goes on and those that come. code: their exit code."""
        (self.folder / "go").write_text(str(code))

    def ticks(self) -> list[Tick]:
        """The rows of the ledger, in order."""
        ledger = Ledger(self.folder / "state", read_only=True)
        try:
            return ledger.latest(count=1000)[::-1]
        finally:
            ledger.close()

    def of_tick(self, tick: Tick) -> list[psutil.Process]:
        """The processes of a tick: the one that runs its commands, and the command."""
        return list(ProcessLauncher(self.folder / "state", self.folder)._holders(tick))
