"""A thread that lets system calls of its own process fail at random, for files below one folder."""

from __future__ import annotations

import errno
import json
import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from failing_calls import ANY, KINDS, FailingCalls

CODES = (errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOENT)
FARTHEST_CALL = 12  # the call that fails is one of so many next ones
PATIENCE = 5.0  # seconds that such a call is waited for


class FaultInjector(threading.Thread):
    """Arms one fault after the other until its process ends, and notes those that hit.

    The process must have been started with the library of failing_calls.py.

    Attributes:
        folder: files below it are meant.
        log: a file that gets one JSON line for each fault that hit.
        seconds: between two faults, on average.
    """

    def __init__(self, folder: Path, log: Path, seed: str, seconds: float):
        super().__init__(name="fault-injector", daemon=True)
        self.folder, self.log, self.seconds = folder, log, seconds
        self._chance = random.Random(seed)
        self._calls = FailingCalls()

    def run(self) -> None:
        """Arm faults for ever."""
        while True:
            time.sleep(self._chance.expovariate(1 / self.seconds))
            kind, code = self._chance.choice([ANY] * len(KINDS) + sorted(KINDS)), self._chance.choice(CODES)
            self._calls.arm(self.folder, kind, self._chance.randint(1, FARTHEST_CALL), code)
            given_up = time.monotonic() + PATIENCE
            while not self._calls.victim and time.monotonic() < given_up:
                time.sleep(0.02)
            if victim := self._calls.victim:
                self._note(kind, code, victim)
            self._calls.arm(self.folder, kind, 0, code)

    def _note(self, call: str, code: int, victim: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "kind": "error", "call": call, "errno": errno.errorcode[code], "path": victim}
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")
