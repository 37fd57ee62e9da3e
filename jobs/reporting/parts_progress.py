"""What is shown while parts of an output folder are written again, which of many takes minutes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO

from tqdm import tqdm

from wanbatch.jobs.reporting.progress import HEARTBEAT_SECONDS, rows_of

QUIET_SECONDS = 1.0
"""What is over by then shows no bar."""


class PartsProgress:
    """A bar of parts on a terminal; anywhere else a JSON line every `HEARTBEAT_SECONDS`, none of what is short."""

    def __init__(self, what: str, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic):
        """
        Args:
            what: is done to parts, like `rows taken out of`.
            stream: where it is shown; None: standard error.
            clock: seconds of a monotonic clock.
        """
        self._what, self._stream, self._clock = what, stream or sys.stderr, clock
        self._shown_at = clock()
        self._bar: tqdm | None = None

    def __call__(self, written: int, parts: int) -> None:
        """Show that so many of the parts are written."""
        if self._stream.isatty():
            self._on_bar(written, parts)
        elif self._clock() - self._shown_at >= HEARTBEAT_SECONDS:
            self._shown_at = self._clock()
            line = {"event": "parts", "what": self._what, "written": written, "parts": parts}
            try:
                print(json.dumps(line), file=self._stream, flush=True)
            except OSError:
                return  # a folder is changed whether somebody reads of it or not

    def _on_bar(self, written: int, parts: int) -> None:
        if self._bar is None:
            shape = "{desc} |{bar:24}| {n_fmt}/{total_fmt} parts · {remaining} left"
            self._bar = tqdm(
                total=parts,
                desc=self._what,
                file=self._stream,
                bar_format=shape,
                delay=QUIET_SECONDS,
                leave=False,
                mininterval=0,
                nrows=rows_of(self._stream),
                miniters=1,
            )
        self._bar.total = parts
        self._bar.update(written - self._bar.n)

    def __enter__(self) -> PartsProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
