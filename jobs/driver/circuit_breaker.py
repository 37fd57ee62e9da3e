"""The circuit breaker: a fault that all rows share stops the run, before it quarantines the manifest. Pure.

A bug, a wrong setting or a dead mount fails every row, and each failure by itself looks like its row's own. So:

- *At the start*, while nothing is made, the first images that fail all with one error class open the circuit:
  `FIRST_IMAGES` of a class that often has a common cause, `FIRST_IMAGES_OF_ROWS` of one that is rather the rows'
  own, such as a missing image; or all images, if there are fewer, but never less than `FEW`. Classes of the rows'
  own do so only where no earlier run of the folder has made anything either.
- *Later*, `WINDOW_FAILURES` of the last `WINDOW` images that failed with one class of common causes open it. Rows'
  own faults never do then: a manifest may have many bad images.

An attempt that may be part of such a fault is held back: at the start, until an image is made or the first failures
differ; later, if half of its images failed with a class of common causes, until `MADE_SINCE` further images are
made. What is held back when the circuit opens is not committed, and its rows stay pending.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

COMMON_CAUSES = ("error", "unreachable", "unreadable_audio", "unreadable_image")
"""Error classes of exceptions that nobody expected, and of servers, disks and mounts that do not answer."""

FEW = 4
FIRST_IMAGES = 16
FIRST_IMAGES_OF_ROWS = 64
WINDOW, WINDOW_FAILURES = 32, 24
MADE_SINCE = 9


class CircuitBreaker:
    """Watches what becomes of images, in the order in which they come back."""

    def __init__(self, pending: int, made_before: int, enabled: bool = True):
        """Watch a run.

        Args:
            pending: images that it is to make.
            made_before: images that earlier runs have made.
            enabled: whether it may open at all.
        """
        self._pending, self._made_before, self._enabled = pending, made_before, enabled
        self._starting = enabled and pending >= FEW  # nothing is made, and all that failed did so alike
        self._window: deque[str | None] = deque(maxlen=WINDOW)  # error class; None: made
        self._failed: Counter[str] = Counter()
        self._made = 0
        self._open_for: str | None = None

    @property
    def open_for(self) -> str | None:
        """The error class that has opened the circuit; None while it is closed."""
        return self._open_for

    @property
    def made(self) -> int:
        """How many images are made so far."""
        return self._made

    @property
    def starting(self) -> bool:
        """Whether nothing is made yet and everything may have failed for one cause."""
        return self._starting

    def count(self, made: int, failed: Sequence[str]) -> None:
        """Count a unit that came back: images made, and the error classes of those that failed."""
        self._made += made
        self._failed.update(failed)
        self._window.extend([None] * made + list(failed))
        if not self._enabled or self._open_for is not None:
            return
        if self._starting:
            self._judge_start()
        recent = Counter(kind for kind in self._window if kind in COMMON_CAUSES)
        for kind, count in recent.items():
            if count >= WINDOW_FAILURES:
                self._open_for = kind

    def suspects(self, made: int, failed: Sequence[str]) -> bool:
        """Whether a unit that came back so may be part of a fault that all rows share."""
        if not self._enabled:
            return False
        counts = Counter(kind for kind in failed if kind in COMMON_CAUSES)
        return any(2 * count >= made + len(failed) for count in counts.values())

    def _judge_start(self) -> None:
        if self._made or len(self._failed) > 1:
            self._starting = False
            return
        for kind, count in self._failed.items():
            often = kind in COMMON_CAUSES
            if not often and self._made_before:
                self._starting = False
            elif count >= min(self._pending, FIRST_IMAGES if often else FIRST_IMAGES_OF_ROWS):
                self._open_for = kind


def explanation(kind: str, failed: Mapping[str, int], cause: str) -> str:
    """Say for a person why the circuit opened and what to do.

    Args:
        kind: the error class that opened it.
        failed: error class -> images that failed in this run.
        cause: what the first of those images said.
    """
    return (
        f"{failed[kind]} images failed alike, as {kind}; the first said: {cause}. Nothing of this is noted: mend the "
        "cause and run the same command again, or quarantine such rows one by one with --circuit-breaker off"
    )
