"""A folder with a schedule, and the real processes in it: services, commands of one tick, their runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Self

import psutil
from job_making import wait_until

from wanbatch.jobs.schedule.launcher import ProcessLauncher
from wanbatch.jobs.schedule.ledger import Ledger, Tick

SERVICE, ONE_TICK = "schedule_service", "one_tick"
_FORKS = multiprocessing.get_context("forkserver")  # a process that has imported everything, which takes seconds
_FORKS.set_forkserver_preload([SERVICE, ONE_TICK, "schedule_folder"])
SETTINGS = """
[schedule.nightly]
cron = "{cron}"
timezone = "UTC"
manifest = "shop.jsonl"
output = "out"
"""


def _work(module: str, folder: Path, output: Path) -> None:
    """Run the `main` of a module, with its output in files."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT), number)
    import_module(module).main(folder)


class Started:
    """A process of one of these modules, in a session of its own; to be used like a `Popen`."""

    def __init__(self, module: str, folder: Path, output: Path):
        self._output = output
        self._process = _FORKS.Process(target=_work, args=(module, folder, output))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} did not end within {timeout} s")
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it has printed and told, once it has ended."""
        self.wait(timeout)
        printed, told = (Path(f"{self._output}.{name}") for name in ("out", "err"))
        return printed.read_text() if printed.exists() else "", told.read_text() if told.exists() else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ScheduleFolder:
    """The folder of a schedule `nightly`; its runs are those of `scheduled_command.py`.

    Attributes:
        processes: that were started in it, services and commands, not their runs.
    """

    CRON = "* * * * *"

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: list[Started] = []
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

    def start(self, module: str) -> Started:
        """Start a service or a command."""
        process = Started(module, self.folder, self.folder / f"output-{len(self.processes)}")
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

    def let_it_end(self, code: int | str = 0) -> None:
        """Let runs end, the one that goes on and those that come. code: their exit code; see `scheduled_command`."""
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
