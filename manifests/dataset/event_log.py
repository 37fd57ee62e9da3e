"""`_wanbatch/log.jsonl`: its name and the form of its lines, for all who write to it or read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

LOG = "log.jsonl"
"""Inside the folder's `_wanbatch/`."""

ENDS = ("finished", "interrupted", "stopped", "failed")
"""Events by which a run says how it ended, as its last one. `failed`: an error ended it, whose message is `cause`. A
run that was killed says nothing."""

Event = Mapping[str, Any]
_BEGIN = b'{"time": '
"""How each line begins."""


class Speed(NamedTuple):
    """Images a second.

    Attributes:
        made: those that were made, which is what a speed is said to be.
        ended: these and those that failed, by which it is counted how long the others take.
    """

    made: float
    ended: float


def speed_of(made: int, failed: int, seconds: float) -> Speed | None:
    """The speed of a run, or of a while of it; None if nothing was made or failed, or in no time.

    Args:
        made, failed: images.
        seconds: in which they were, see `making_seconds`.
    """
    return Speed(made / seconds, (made + failed) / seconds) if made + failed and seconds > 0 else None


def log_line(event: str, **fields: Any) -> bytes:
    """One event with its time (UTC), as a line of the log."""
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    return json.dumps(record).encode() + b"\n"


def parsed_events(log: bytes | None) -> list[Event]:
    """The events of a log; what a kill or a full disk has cut off is left out, and not what was written behind it."""
    found = []
    for line in (log or b"").splitlines():
        event = _parsed(line) or _parsed(line[max(0, line.rfind(_BEGIN)) :])
        if event is not None:
            found.append(event)
    return found


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
        event["time"] = datetime.fromisoformat(event["time"])
    except (ValueError, TypeError, KeyError):
        return None
    return event


def last_run(events: Sequence[Event]) -> list[Event]:
    """The events of the last run."""
    starts = [index for index, event in enumerate(events) if event["event"] == "started"]
    return list(events[starts[-1] :]) if starts else []


def end_of(run: Iterable[Event]) -> Event | None:
    """The event that says how a run ended; None if it has not said. run: its events."""
    return next((event for event in run if event["event"] in ENDS), None)


def cause_of(end: Event | None) -> str | None:
    """Why a run was stopped or failed, in words; None if it was not. end: as of `end_of`."""
    return None if end is None else end.get("cause") or end.get("by")


def unit_times(run: Iterable[Event]) -> list[tuple[datetime, Event]]:
    """When each unit of a run was taken in hand, with the event that it is done.

    A worker's first unit begins when the worker is ready. Of the others, which it takes before the last one has left
    it, nobody noted that: they count from their end back, for as long as they had the worker's time to themselves.
    """
    ready: dict[Any, datetime] = {}
    found = []
    for event in run:
        if event["event"] == "worker_ready":
            ready[event.get("worker")] = event["time"]
        elif event["event"] == "unit":
            alone = event["time"] - timedelta(seconds=event["busy_seconds"])
            found.append((min(alone, ready.pop(event["worker"], alone)), event))
    return found


def counts_of_units(run: Iterable[Event]) -> tuple[int, int]:
    """How many images the units of a run made, and how many failed in them."""
    units = [event for event in run if event["event"] == "unit"]
    return sum(event["made"] for event in units), sum(event["failed"] for event in units)


def making_seconds(run: Iterable[Event]) -> float:
    """From the begin of a run's first unit to the end of its last one; 0 if it finished none."""
    times = unit_times(run)
    return (times[-1][1]["time"] - min(begin for begin, _ in times)).total_seconds() if times else 0.0


def speed_of_run(run: Sequence[Event]) -> Speed | None:
    """How fast a run is, from its first unit's begin to its last unit's end; None if it has not finished a unit."""
    made, failed = counts_of_units(run)
    return speed_of(made, failed, making_seconds(run))
