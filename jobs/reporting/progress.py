"""What a run shows while it goes on: a bar on a terminal, JSON lines anywhere else."""

from __future__ import annotations

import json
import sys
import time
from typing import IO, Protocol

from tqdm import tqdm

HEARTBEAT_SECONDS = 10.0
MAKING = "making"


class Progress(Protocol):
    """Told how far a run is. made, failed: images, of this and earlier runs of the folder."""

    def stage(self, text: str) -> None:
        """What the run does now; speed is measured from the stage `MAKING` on."""

    def update(self, made: int, failed: int) -> None: ...

    def close(self) -> None: ...


def progress_for(total: int, before: int, stream: IO[str] = sys.stderr) -> Progress:
    """total: images of the manifest. before: of these, done by earlier runs."""
    return Bar(total, before, stream) if stream.isatty() else JsonLines(total, before, stream)


class Bar:
    """A tqdm bar: made, failed, pictures a second, time left."""

    FORMAT = "{desc} |{bar:24}| {n_fmt}/{total_fmt} pictures{postfix} · {rate_noinv_fmt} · {remaining} left"

    def __init__(self, total: int, before: int, stream: IO[str]):
        self.bar = tqdm(
            total=total,
            initial=before,
            file=stream,
            unit=" pictures",
            bar_format=self.FORMAT,
            desc="starting",
            mininterval=0.2,
            smoothing=0,  # the mean since the start: pictures come in bursts
        )

    def stage(self, text: str) -> None:
        self.bar.set_description_str(text)
        if text == MAKING:
            self.bar.start_t = self.bar.last_print_t = time.time()

    def update(self, made: int, failed: int) -> None:
        self.bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
        self.bar.update(made + failed - self.bar.n)
        self.bar.refresh()

    def close(self) -> None:
        self.bar.close()


class JsonLines:
    """One JSON object a line: each stage at once, counts at most every `HEARTBEAT_SECONDS` and at the end."""

    def __init__(self, total: int, before: int, stream: IO[str]):
        self.total, self.before, self.stream = total, before, stream
        self.begin = self.counted = time.monotonic()
        self.told = -HEARTBEAT_SECONDS
        self.counts = (before, 0)

    def stage(self, text: str) -> None:
        self._print({"event": "stage", "stage": text})
        if text == MAKING:
            self.begin = self.counted = time.monotonic()

    def update(self, made: int, failed: int) -> None:
        self.counts, self.counted = (made, failed), time.monotonic()
        if self.counted - self.told >= HEARTBEAT_SECONDS:
            self._heartbeat()

    def close(self) -> None:
        self._heartbeat()

    def _heartbeat(self) -> None:
        """Speed up to when the pictures were counted: what comes after, like ending workers, is no part of it."""
        self.told = time.monotonic()
        made, failed = self.counts
        rate = (made + failed - self.before) / max(1e-9, self.counted - self.begin)
        left = (self.total - made - failed) / rate if rate > 0 else None
        self._print(
            {
                "event": "progress",
                "total": self.total,
                "made": made,
                "failed": failed,
                "pictures_per_second": round(rate, 3),
                "seconds_left": None if left is None else round(left, 1),
            }
        )

    def _print(self, record: dict) -> None:
        print(json.dumps(record), file=self.stream, flush=True)
