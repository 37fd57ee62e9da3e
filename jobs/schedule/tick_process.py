"""The process of one attempt at a tick: `python -m wanbatch.jobs.schedule.tick_process DESCRIPTION`.

It runs the commands of a tick one after the other, with their output in the tick's log, and leaves how it ended in a
file. It has a session of its own, so that it outlives the service that started it. The file with its lock is open in
it and in its commands: the lock is held as long as one of them is alive.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wanbatch.errors import MachineryError
from wanbatch.jobs.schedule.own_end import OwnEnd
from wanbatch.manifests.storage.atomic_files import write_atomic

OWN_LINE = "--- "
"""What a line of the log begins with that is not from a command."""
INTERRUPTED = 130
MACHINERY = MachineryError.exit_code
ENDED_WITHIN = 1
"""The exit code with which Ray ends a process, and with which a bug does."""
RETRY_SECONDS, RETRIES = 10.0, 360


@dataclass(frozen=True, slots=True)
class Description:
    """What one attempt is.

    Attributes:
        commands: run one after the other, until one ends with another exit code than 0.
        folder: where they are run.
        environment: added to that of this process.
        log: the file that their output is added to.
        result: the file that says how it ended.
        lock: the number of the open file that holds the lock.
        title: first line in the log.
    """

    commands: list[list[str]]
    folder: str
    environment: dict[str, str]
    log: str
    result: str
    lock: int
    title: str


class Attempt:
    """An attempt at a tick."""

    def __init__(self, description: Description):
        self._what = description
        self._stopped = False
        self._child: subprocess.Popen | None = None

    def on_signal(self, *_: object) -> None:
        """Stop: the command that runs is told, and no other one begins."""
        self._stopped = True
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(signal.SIGTERM)

    def run(self) -> int:
        """Run the commands and leave how they ended; returns the exit code of the last one."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_signal)
        code = INTERRUPTED
        try:
            with open(self._what.log, "ab") as log:
                for command in self._what.commands:
                    if self._stopped:
                        code = INTERRUPTED
                        break
                    code = self._run_one(command, log)
                    if code:
                        break
                self._write(log, f"ended with exit code {code}")
        except OSError as error:
            print(f"wanbatch: {self._what.log}: cannot be written ({error.strerror})", file=sys.stderr)
            code = MACHINERY
        self._leave({"exit_code": code, "stopped": self._stopped, "ended": datetime.now(UTC).isoformat()})
        return code

    def _run_one(self, command: list[str], log: Any) -> int:
        self._write(log, f"{self._what.title}: {' '.join(command)}")
        try:
            with OwnEnd() as own_end:
                code = self._wait_for(command, log, own_end)
                if code != ENDED_WITHIN or own_end.was_said():
                    return code
        except OSError as error:
            self._write(log, f"cannot be started: {error.strerror}")
            return MACHINERY
        self._write(
            log, f"ended with exit code {code} in the middle, as Ray ends a process when a part of it is gone"
        )
        return MACHINERY

    def _wait_for(self, command: list[str], log: Any, own_end: OwnEnd) -> int:
        """Start a command and return its exit code once it has ended. Raises OSError if it cannot be started."""
        self._child = subprocess.Popen(
            command,
            cwd=self._what.folder,
            env={**os.environ, **self._what.environment, **own_end.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[self._what.lock, own_end.number],
        )
        write_holders(self._what.lock, os.getpid(), self._child.pid)
        if self._stopped:  # a signal came while it was started
            self._child.send_signal(signal.SIGTERM)
        return self._child.wait()

    def _write(self, log: Any, text: str) -> None:
        log.write(f"{OWN_LINE}{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n".encode())
        log.flush()

    def _leave(self, result: dict[str, Any]) -> None:
        """Write how it ended. A full disk may get room again; without a result the tick would be run once more."""
        for _ in range(RETRIES):
            try:
                write_atomic(Path(self._what.result), json.dumps(result).encode())
            except OSError:
                time.sleep(RETRY_SECONDS)
            else:
                return


def write_holders(lock: int, *pids: int) -> None:
    """Write into a lock's open file which processes hold it: their numbers and when they started."""
    import psutil

    holders = []
    for pid in pids:
        try:
            holders.append({"pid": pid, "started": psutil.Process(pid).create_time()})
        except psutil.Error:
            continue
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(holders).encode(), 0)
    except OSError:
        return  # then it cannot be stopped from outside, but runs


def arguments(description: Description) -> list[str]:
    """The command that runs an attempt."""
    return [sys.executable, "-m", __name__, json.dumps(asdict(description))]


if __name__ == "__main__":
    sys.exit(Attempt(Description(**json.loads(sys.argv[1]))).run() & 0xFF)
