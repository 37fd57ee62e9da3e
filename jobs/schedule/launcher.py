"""The processes of ticks: starting them, so that they outlive the service, and finding them again."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from wanbatch.errors import MachineryError
from wanbatch.jobs.schedule.commands import THIS_WANBATCH, tick_commands, tick_environment
from wanbatch.jobs.schedule.decisions import Outcome
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.ledger import Tick, stamp
from wanbatch.jobs.schedule.tick_process import OWN_LINE, Description, arguments, write_holders
from wanbatch.manifests.storage.atomic_files import make_folder, remove

LOGS, LOG_BYTES = 100, 1 << 30
"""Of each schedule the logs of so many ticks are kept, and no more bytes than that; the oldest go first."""

ENDING_SECONDS = 5.0
TAIL_BYTES, MOST_SAID = 16_384, 500
"""Of a log so much is read for its last line, of which so many characters are told."""
CLOCK_SECONDS = 2.0
"""When a process began is reckoned from when the host did, which is told in whole seconds and moves with its clock.
So much may lie between two answers about one process; nobody else has its number again so soon."""

_log = logging.getLogger(__name__)


class ProcessLauncher:
    """Starts ticks as processes. For each there are three files in a folder of its schedule: its log, its lock, which
    is held while one of its processes lives, and its result."""

    def __init__(self, state: Path, folder: Path, wanbatch: Sequence[str] = THIS_WANBATCH):
        """state: the folder of the ledger. folder: where commands are run. wanbatch: the words that start it."""
        self._state, self._folder, self._wanbatch = state.absolute(), folder.absolute(), wanbatch
        self._reserved: dict[tuple[str, datetime], int] = {}
        self._started: dict[tuple[str, datetime], subprocess.Popen] = {}

    def log_of(self, tick: Tick) -> Path:
        """The file with the output of a tick's commands."""
        return log_of(self._state, tick)

    def said(self, tick: Tick) -> str:
        """The last line in the log of a tick that is of its commands, or nothing if there is none."""
        try:
            with open(self.log_of(tick), "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines()]
        last = next((line for line in reversed(lines) if line and not line.startswith(OWN_LINE)), "")
        return last if len(last) <= MOST_SAID else f"{last[:MOST_SAID]}..."

    def reserve(self, tick: Tick) -> bool:
        """Take the lock of a tick; False: one of its processes still lives."""
        path = self._file(tick, ".lock")
        try:
            make_folder(path.parent)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _failed(path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(self._file(tick, ".result.json"))
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError as error:
            os.close(lock)
            raise _failed(path, error) from error
        self._reserved[tick.schedule, tick.time] = lock
        return True

    def release(self, tick: Tick) -> None:
        """Give up the lock of a tick."""
        os.close(self._reserved.pop((tick.schedule, tick.time)))

    def start(self, tick: Tick, schedule: Schedule) -> None:
        """Start the process of a tick that was reserved; it takes the lock over."""
        lock = self._reserved[tick.schedule, tick.time]
        description = Description(
            commands=tick_commands(schedule, self._wanbatch),
            folder=str(self._folder),
            environment=tick_environment(schedule, tick.time),
            log=str(self.log_of(tick)),
            result=str(self._file(tick, ".result.json")),
            lock=lock,
            title=f"{tick.run_id}, attempt {tick.attempts}",
        )
        try:
            with open(self.log_of(tick), "ab") as log:  # not the service's own output, which ends with the service
                process = subprocess.Popen(
                    arguments(description),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock],
                    start_new_session=True,
                )
            write_holders(lock, process.pid)
            self._started[tick.schedule, tick.time] = process
        except OSError as error:  # no memory, too many processes: the tick counts as gone, and is started again
            _log.warning("%s could not be started (%s)", tick.run_id, error.strerror)
        finally:
            self.release(tick)

    def look(self, tick: Tick) -> Outcome | Literal["running", "gone"]:
        """What became of a tick: its lock says whether a process lives, its result how it ended."""
        if self._is_locked(tick):
            return "running"
        if (process := self._started.pop((tick.schedule, tick.time), None)) is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_SECONDS)  # it is over, since nobody holds its lock; or it could not take it over
        try:
            found = json.loads(self._file(tick, ".result.json").read_bytes())
        except FileNotFoundError:
            return "gone"
        except (OSError, ValueError) as error:
            raise MachineryError(f"{self._file(tick, '.result.json')}: cannot be read ({error})") from error
        return Outcome(found["exit_code"], found["stopped"], datetime.fromisoformat(found["ended"]))

    def stop(self, tick: Tick) -> None:
        """Send SIGTERM to the process of a tick; where that one is gone, to its command."""
        for process in self._holders(tick):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
                return

    def forget(self, tick: Tick, schedule: Schedule | None) -> None:
        """Remove lock and result of a tick that is over, and the oldest logs of its schedule."""
        try:
            for ending in (".result.json", ".lock"):
                remove(self._file(tick, ending))
            self._drop_logs(tick.schedule)
        except OSError as error:
            _log.warning("%s: old files could not be removed (%s)", error.filename, error.strerror)

    def _drop_logs(self, name: str) -> None:
        left = LOG_BYTES
        for index, log in enumerate(sorted((self._state / name).glob("*.log"), reverse=True)):
            left -= log.stat().st_size
            if index and (index >= LOGS or left < 0) and not log.with_suffix(".lock").exists():
                remove(log)

    def _is_locked(self, tick: Tick) -> bool:
        path = self._file(tick, ".lock")
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _failed(path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            raise _failed(path, error) from error
        finally:
            os.close(lock)
        return False

    def _holders(self, tick: Tick) -> Iterator[psutil.Process]:
        """The living processes of a tick: the one that runs its commands, then the command."""
        try:
            holders: list[dict[str, Any]] = json.loads(self._file(tick, ".lock").read_bytes() or b"[]")
        except (OSError, ValueError):
            return
        for holder in holders:
            with suppress(psutil.Error):
                process = psutil.Process(holder["pid"])
                same = abs(process.create_time() - holder["started"]) < CLOCK_SECONDS
                if same and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _file(self, tick: Tick, ending: str) -> Path:
        return self._state / tick.schedule / f"{stamp(tick.time)}{ending}"


def log_of(state: Path, tick: Tick) -> Path:
    """The file with the output of a tick's commands. state: the folder of the ledger."""
    return state / tick.schedule / f"{stamp(tick.time)}.log"


def _failed(path: Path, error: OSError) -> MachineryError:
    return MachineryError(f"{path}: cannot be used ({error.strerror}): free the disk or mend it")
