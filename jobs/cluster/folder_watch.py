"""What the output folder of a job says of its run: how much is made, how fast, and what it does. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wanbatch.errors import WanbatchError
from wanbatch.manifests.dataset.event_log import LOG, Event, Speed, last_run, parsed_events, speed_of_run
from wanbatch.manifests.dataset.status import read_internal_file, status

FOLDER_SHARE = 20
"""The folder is read again after so many times as long as reading it took: that grows with what is committed."""

Counts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunSeen:
    """How far a run is, by its events.

    Attributes:
        begun: when, by its own clock.
        is_making: whether it has had a worker that was ready.
        workers: how many it wants and how many have a place, on a cluster; None: it has not said.
        speed: from its first unit's begin to its last unit's end; None if it has not finished one.
    """

    begun: datetime
    is_making: bool
    workers: tuple[int, int] | None
    speed: Speed | None


def run_seen(run: Sequence[Event]) -> RunSeen:
    """How far a run is. run: its events, at least the first."""
    told = [(event["wanted"], event["placed"]) for event in run if event["event"] == "workers"]
    is_making = any(event["event"] == "worker_ready" for event in run)
    return RunSeen(run[0]["time"], is_making, told[-1] if told else None, speed_of_run(run))


class FolderWatch:
    """Reads how far an output folder is, seldom enough not to be a burden.

    Attributes:
        run: the run that goes on in it, or that was seen to go on and has ended; None: there was none yet.
    """

    def __init__(self, out: str | None, clock: Callable[[], float] = time.monotonic):
        """Watch a folder. out: path or URL; None: it cannot be seen from here."""
        self._out, self._clock = out, clock
        self._next = 0.0
        self._last: Counts | None = None
        self.run: RunSeen | None = None

    def counts(self, now: bool = False) -> Counts | None:
        """What was read last, or is now; None if there was never anything. now: read it in any case."""
        if self._out is None or not (now or self._clock() >= self._next):
            return self._last
        begin = self._clock()
        with suppress(WanbatchError):  # not begun yet, or a store that does not answer: the job's status matters
            self._last = status(self._out)
            self._look_at_run(self._out, self._last["holder"])
        self._next = self._clock() + FOLDER_SHARE * (self._clock() - begin)
        return self._last

    def _look_at_run(self, out: str, holder: Mapping[str, Any] | None) -> None:
        """An earlier run of the folder is none of this job's: what goes on now, or was seen to, is."""
        run = last_run(parsed_events(read_internal_file(out, LOG)))
        if run and (_is_of(run[0], holder) or (self.run is not None and run[0]["time"] == self.run.begun)):
            self.run = run_seen(run)


def _is_of(started: Event, holder: Mapping[str, Any] | None) -> bool:
    """Whether a run is that of the process which holds the folder, both by that one's clock."""
    if holder is None or started.get("pid") != holder["pid"]:
        return False
    try:
        return started["time"] >= datetime.fromisoformat(holder["since"])
    except (TypeError, ValueError):  # a lock that is damaged
        return False
