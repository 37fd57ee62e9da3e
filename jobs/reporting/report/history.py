"""When the runs of a folder worked, how fast and with how many workers, by the events of its log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from wanbatch.manifests.dataset.event_log import (
    Event,
    cause_of,
    counts_of_units,
    end_of,
    making_seconds,
    unit_times,
)

AFTERWARDS = ("set_aside", "repaired")
"""Events of those who come to a folder after its run: `wanbatch repair`, or the next run before it starts."""

BINS = 120
"""Points of a curve over time."""


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the folder.

    Attributes:
        begin, end: from its start to the event that says how it ended, or else to its last one.
        made, failed: images that it committed.
        making_seconds: from the begin of its first unit to the end of its last one; 0 if it finished none.
        ended: as of `event_log.ENDS`; None: it goes on, or it ended without saying so.
        cause: why it was stopped or failed, in words; None if it was not.
    """

    begin: datetime
    end: datetime
    made: int
    failed: int
    making_seconds: float
    ended: str | None
    cause: str | None = None

    @property
    def seconds(self) -> float:
        """From its begin to its end."""
        return (self.end - self.begin).total_seconds()

    def as_json(self) -> dict[str, Any]:
        """Its attributes as JSON values."""
        times = {"begin": self.begin.isoformat(), "end": self.end.isoformat(), "seconds": round(self.seconds, 3)}
        return {**asdict(self), **times}


@dataclass(frozen=True, slots=True)
class Timeline:
    """Speed and workers over the time in which runs of the folder worked, one run after the other.

    Attributes:
        bin_seconds: the length of one point.
        images_per_second: images that were made in it.
        workers: how many workers had a unit in hand in it.
        run_starts: seconds at which a run begins.
    """

    bin_seconds: float
    images_per_second: list[float]
    workers: list[int]
    run_starts: list[float] = field(default_factory=list)


def sessions_of(events: Iterable[Event]) -> list[Session]:
    """The runs of a folder, in their order."""
    found: list[Session] = []
    for run in _runs(events):
        made, failed = counts_of_units(run)
        end = end_of(run)
        found.append(
            Session(
                begin=run[0]["time"],
                end=(end or run[-1])["time"],
                made=made,
                failed=failed,
                making_seconds=round(making_seconds(run), 3),
                ended=None if end is None else end["event"],
                cause=cause_of(end),
            )
        )
    return found


def timeline_of(events: Iterable[Event], bins: int = BINS) -> Timeline | None:
    """Speed and workers over time; None if no unit was finished."""
    offset, starts, spans = 0.0, [], []
    for run in _runs(events):
        times = unit_times(run)
        if not times:
            continue
        first = min(begin for begin, _ in times)
        starts.append(offset)
        for begin, event in times:
            since, until = (offset + (time - first).total_seconds() for time in (begin, event["time"]))
            spans.append((since, until, event["made"], event["worker"]))
        offset = max(span[1] for span in spans)
    return _binned(spans, starts, offset, bins) if spans and offset > 0 else None


def _binned(
    spans: Sequence[tuple[float, float, int, object]], starts: list[float], seconds: float, bins: int
) -> Timeline:
    """A unit's images are spread over the time in which it was in hand."""
    width = seconds / bins
    images = np.zeros(bins)
    workers: list[set[object]] = [set() for _ in range(bins)]
    for begin, end, count, worker in spans:
        first, last = (int(np.clip(at / width, 0, bins - 1)) for at in (begin, end - 1e-9))
        last = max(first, last)
        images[first : last + 1] += count / (last - first + 1)
        for index in range(first, last + 1):
            workers[index].add(worker)
    return Timeline(
        round(width, 4), [round(float(count / width), 5) for count in images], [len(of) for of in workers], starts
    )


def _runs(events: Iterable[Event]) -> Iterable[list[Event]]:
    """The events of each run; those before the first start are nobody's."""
    run: list[Event] = []
    for event in events:
        if event["event"] == "started":
            if run:
                yield run
            run = [event]
        elif run and event["event"] not in AFTERWARDS:
            run.append(event)
    if run:
        yield run
