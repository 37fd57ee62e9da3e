"""What `wanbatch status --watch` looks at, again and again, until the run ends; `terminal_view.py` shows it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.event_log import (
    ENDS,
    LOG,
    Event,
    Speed,
    counts_of_units,
    end_of,
    last_run,
    parsed_events,
    speed_of,
    unit_times,
)
from wanbatch.manifests.dataset.status import read_internal_file, status

RECENT = timedelta(minutes=5)
"""Speed and workers are those of the last minutes."""

LOAD = 0.1
"""Looking takes at most this share of the time: a large folder is looked at less often."""

PICTURES, SIDE = 6, 160


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker of the run.

    Attributes:
        name: of it.
        images: that it has made or failed in this run.
        seconds_ago: since it last finished a unit.
    """

    name: str
    images: int
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class Look:
    """What a folder is like at one moment.

    Attributes:
        found: what `dataset.status.status` says.
        images_per_second: made in the last minutes; None if nothing was finished in them.
        seconds_left: as fast as images were finished in them, failed ones too; None if that is not known, or nothing
            goes on.
        workers: of this run, the busiest first.
        last_failures: the last ones, `(id, error class)`, the latest first.
        ended: how the last run ended, of `event_log.ENDS`; None: it has not said.
        pictures: the last ones, small.
    """

    found: Mapping[str, Any]
    images_per_second: float | None
    seconds_left: float | None
    workers: Sequence[WorkerSeen] = ()
    last_failures: Sequence[tuple[str, str]] = ()
    ended: str | None = None
    pictures: Sequence[Image.Image] = field(default_factory=tuple)

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self.found["holder"] is not None


def look(out: str | Path, with_pictures: bool = False, now: datetime | None = None) -> Look:
    """Look at a folder.

    Args:
        out: the folder, or its URL.
        with_pictures: read the last pictures, too.
        now: the time.

    Raises:
        UserError: It is no output folder. MachineryError: It cannot be read.
    """
    found = status(out)
    run = last_run(parsed_events(read_internal_file(out, LOG)))
    now = now or datetime.now(UTC)
    rate = recent_speed(run, now)
    left = found["pending"] / rate.ended if rate and found["pending"] is not None and found["holder"] else None
    failures = [(event["id"], event["error_class"]) for event in run if event["event"] == "quarantined"]
    end = end_of(run)
    ended = None if end is None else str(end["event"])
    pictures = last_pictures(out) if with_pictures else ()
    return Look(found, rate and rate.made, left, workers_of(run, now), failures[:-4:-1], ended, pictures)


def recent_speed(run: Sequence[Event], now: datetime) -> Speed | None:
    """The speed in the last minutes of a run; before it is that old, since its first unit began."""
    units = [event for event in run if event["event"] == "unit"]
    if not units:
        return None
    begin = min(begin for begin, _ in unit_times(run))
    end = now if run[-1]["event"] not in ENDS else units[-1]["time"]
    since = max(begin, end - RECENT)
    counts = counts_of_units(event for event in units if event["time"] > since)
    return speed_of(*counts, (end - since).total_seconds())


def workers_of(run: Sequence[Event], now: datetime) -> list[WorkerSeen]:
    """The workers that finished units in a run, the busiest first."""
    images: dict[str, int] = {}
    last: dict[str, datetime] = {}
    for event in run:
        if event["event"] == "unit":
            name = str(event["worker"])
            images[name] = images.get(name, 0) + event["made"] + event["failed"]
            last[name] = event["time"]
    ordered = sorted(images, key=lambda name: (-images[name], name))
    return [WorkerSeen(name, images[name], max(0.0, (now - last[name]).total_seconds())) for name in ordered]


def last_pictures(out: str | Path) -> list[Image.Image]:
    """The pictures of the part that was committed last, small; none if they cannot be read just now."""
    try:
        parts = CommittedParts.open(out)
        names = parts.names["data"]
        if not names:
            return []
        rows = parts.rows({len(names) - 1: range(PICTURES)}, lambda row: row["image"]["bytes"])
    except (UserError, MachineryError):  # the run is about to write just these
        return []
    pictures = []
    for data in rows:
        with suppress(OSError, ValueError, SyntaxError):  # one that is damaged is not shown
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            picture.thumbnail((SIDE, SIDE))
            pictures.append(picture)
    return pictures


def looks(
    out: str | Path,
    interval: float,
    with_pictures: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Look]:
    """Look at a folder until no run writes to it any more; the last look is after its end.

    Args:
        out: the folder, or its URL.
        interval: seconds from one look to the next, at least.
        with_pictures: read the last pictures, too.
        sleep, clock: of the system.

    Raises:
        UserError: It is no output folder. MachineryError: It cannot be read.
    """
    while True:
        begin = clock()
        seen = look(out, with_pictures)
        yield seen
        if not seen.running:
            return
        sleep(max(interval, (clock() - begin) / LOAD))
