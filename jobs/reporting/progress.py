"""What a run shows while it goes on: a bar on a terminal, JSON lines anywhere else."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Protocol

from tqdm import tqdm

from wanbatch.manifests.dataset.event_log import Speed, speed_of

HEARTBEAT_SECONDS = 10.0
USUAL_ROWS = 24
STARTING, MAKING = "starting", "making"


class Progress(Protocol):
    """Is told how far a run is."""

    def stage(self, text: str) -> None:
        """Show what the run does now; speed is measured from the first counts of the stage `MAKING` on."""

    def update(self, made: int, failed: int) -> None:
        """Show how many images are made and have failed, in this and earlier runs of the folder."""

    def workers(self, wanted: int, placed: int) -> None:
        """Show how many workers there are to be, and how many have a place, on a cluster."""

    def close(self) -> None:
        """End it; nothing is shown after that."""


class MeasuredProgress(Progress, Protocol):
    """Is told the speed, too, by whoever looks at a run of another process."""

    def measured(self, speed: Speed | None) -> None:
        """Show this speed, and the time left by it, from now on in place of one's own; None: it is not known yet."""


def workers_text(wanted: int, placed: int) -> str:
    """Like `wanted 16 workers, have 8, waiting for 8 more`."""
    waiting = f", waiting for {wanted - placed} more" if wanted > placed else ""
    return f"wanted {wanted} worker{'s' if wanted != 1 else ''}, have {placed}{waiting}"


def progress_for(total: int, before: int, stream: IO[str] = sys.stderr) -> MeasuredProgress:
    """A bar on a terminal, JSON lines anywhere else.

    Args:
        total: images of the manifest.
        before: of these, done by earlier runs.
        stream: where it is shown.
    """
    return Bar(total, before, stream) if stream.isatty() else JsonLines(total, before, stream)


class _Counts(NamedTuple):
    """Images that are made and have failed, in all runs of a folder."""

    made: int
    failed: int

    def speed_since(self, earlier: _Counts, seconds: float) -> Speed:
        """The speed at which these came; none as long as none came."""
        return speed_of(self.made - earlier.made, self.failed - earlier.failed, seconds) or NO_SPEED


NO_SPEED = Speed(0.0, 0.0)


class _Tqdm(tqdm):
    """Shows the speed of images that are made, and how long it takes by those that fail, too; may be told both."""

    is_told = False
    told: Speed | None = None
    first: _Counts | None = None  # those that speed is measured from; None: the next ones
    counts = _Counts(0, 0)
    counted = 0.0  # seconds from the begin until there were these: ending workers is no part of the speed

    @property
    def format_dict(self) -> dict[str, Any]:
        found = super().format_dict
        own = self.counts.speed_since(self.first or self.counts, self.counted)
        found["rate"], ended = (self.told or NO_SPEED) if self.is_told else own
        found["left"] = tqdm.format_interval((found["total"] - found["n"]) / ended) if ended > 0 else "?"
        return found


class Bar:
    """A tqdm bar: made, failed, pictures a second, time left."""

    FORMAT = "{desc} |{bar:%d}| {n_fmt}/{total_fmt} pictures{postfix} · {rate_noinv_fmt} · {left} left"
    NARROW = "{desc} {n_fmt}/{total_fmt}{postfix} · {left} left"
    BAR, TEXT = 24, 74
    """Columns of the bar where there is room, and of what is around it; with less room the bar is shorter, then gone,
    since figures must not be cut."""

    def __init__(self, total: int, before: int, stream: IO[str]):
        self._stage = STARTING
        room = min(self.BAR, _columns(stream) - self.TEXT)
        self._bar = _Tqdm(
            total=total,
            initial=before,
            file=stream,
            unit=" pictures",
            bar_format=self.FORMAT % room if room > 4 else self.NARROW,
            desc=STARTING,
            mininterval=0.2,
            nrows=rows_of(stream),
        )
        self._bar.first = self._bar.counts = _Counts(before, 0)

    def stage(self, text: str) -> None:
        self._stage = text
        self._bar.set_description_str(text)
        if text == MAKING:
            self._bar.start_t = self._bar.last_print_t = time.time()
            self._bar.first, self._bar.counted = None, 0.0

    def workers(self, wanted: int, placed: int) -> None:
        short = f" ({workers_text(wanted, placed)})" if placed < wanted else ""
        self._bar.set_description_str(f"{self._stage}{short}")

    def measured(self, speed: Speed | None) -> None:
        self._bar.is_told, self._bar.told = True, speed

    def update(self, made: int, failed: int) -> None:
        self._bar.counts = _Counts(made, failed)
        self._bar.first = self._bar.first or self._bar.counts
        self._bar.counted = time.time() - self._bar.start_t
        self._bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
        self._bar.update(made + failed - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def _columns(stream: IO[str]) -> int:
    """How many columns the terminal of a stream has; where it does not say so, as many as are needed."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or Bar.BAR + Bar.TEXT
    except OSError:
        return Bar.BAR + Bar.TEXT


def rows_of(stream: IO[str]) -> int:
    """How many lines the terminal of a stream has; where it does not say so, as many as most have.

    A bar of tqdm is not shown on one of no lines, which is what serial lines, `script` and the like say.
    """
    try:
        return os.get_terminal_size(stream.fileno()).lines or USUAL_ROWS
    except OSError:
        return USUAL_ROWS


class JsonLines:
    """One JSON object a line: each stage at once, counts at most every `HEARTBEAT_SECONDS` and at the end.

    A run does not end because nobody reads its lines any more, or because the disk that they go to is full: then no
    more of them are printed.
    """

    def __init__(self, total: int, before: int, stream: IO[str], clock: Callable[[], float] = time.monotonic):
        """Print to a stream. total, before: see `progress_for`. clock: seconds of a monotonic clock."""
        self._total, self._stream, self._clock = total, stream, clock
        self._begin = self._counted = clock()
        self._printed = -HEARTBEAT_SECONDS  # when counts were, last
        self._counts = _Counts(before, 0)
        self._first: _Counts | None = self._counts  # those that speed is measured from; None: the next ones
        self._is_told = False
        self._told: Speed | None = None
        self._is_read = True

    def stage(self, text: str) -> None:
        self._print({"event": "stage", "stage": text})
        if text == MAKING:
            self._begin = self._counted = self._clock()
            self._first, self._printed = None, -HEARTBEAT_SECONDS

    def workers(self, wanted: int, placed: int) -> None:
        counts = {"wanted": wanted, "placed": placed, "waiting": wanted - placed}
        self._print({"event": "workers", **counts, "message": workers_text(wanted, placed)})

    def measured(self, speed: Speed | None) -> None:
        self._is_told, self._told = True, speed

    def update(self, made: int, failed: int) -> None:
        self._counts, self._counted = _Counts(made, failed), self._clock()
        self._first = self._first or self._counts
        if self._counted - self._printed >= HEARTBEAT_SECONDS:
            self._heartbeat()

    def close(self) -> None:
        self._heartbeat()

    def _heartbeat(self) -> None:
        """Speed up to when the pictures were counted: what comes after, like ending workers, is no part of it."""
        self._printed = self._clock()
        made, failed = self._counts
        own = self._counts.speed_since(self._first or self._counts, self._counted - self._begin)
        rate, ended = (self._told or NO_SPEED) if self._is_told else own
        left = (self._total - made - failed) / ended if ended > 0 else None
        self._print(
            {
                "event": "progress",
                "total": self._total,
                "made": made,
                "failed": failed,
                "pictures_per_second": round(rate, 3),
                "seconds_left": None if left is None else round(left, 1),
            }
        )

    def _print(self, record: dict) -> None:
        if not self._is_read:
            return
        try:
            print(json.dumps(record), file=self._stream, flush=True)
        except OSError:
            self._is_read = False
