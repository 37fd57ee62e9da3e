"""Stopping a run: Ctrl-C and SIGTERM, or an event that the caller of `run` sets."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wanbatch.counting import number_of
from wanbatch.errors import WanbatchError
from wanbatch.jobs.driver.run_counters import RunCounters
from wanbatch.manifests.dataset.status import status

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Becomes true when the user, the system or the caller asks the run to stop."""

    def __init__(self, event: threading.Event | None = None):
        """Watch an event of the caller's, too, if there is one."""
        self._event = event
        self._signalled = False  # no event: a signal handler must not wait for a lock

    def __call__(self) -> bool:
        """Whether the run is to stop."""
        return self._signalled or (self._event is not None and self._event.is_set())

    def on_signal(self, *_: object) -> None:
        """Handle a signal: the first asks the run to stop, the next raises KeyboardInterrupt."""
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True


def what_is_kept(out: str, rows: int, counters: RunCounters, in_hand: int) -> tuple[str, int]:
    """What is left of a run that was interrupted once more while it stopped.

    Args:
        out: the output folder, a path or URL.
        rows: images of the plan.
        counters: of the run.
        in_hand: images that are made of units that no one will commit.

    Returns:
        A sentence for the user, and how many images are committed.
    """
    kept = counters.made
    with suppress(WanbatchError):  # the folder knows best, if it can be read: the last commit may not be counted yet
        kept = max(kept, int(status(out)["done"]))
    dropped = max(0, counters.made + in_hand - kept)
    lost = f", {dropped} more made and dropped" if dropped else ""
    told = f"interrupted: {kept} of {number_of(rows, 'pictures')} made and kept{lost}; run the same command again"
    return f"{told} to go on", kept


@contextmanager
def stop_on_signals(event: threading.Event | None = None) -> Iterator[StopRequest]:
    """Make Ctrl-C and SIGTERM only set a flag, so that no unit is cut off while it is published.

    Only the main thread of a process may handle signals: in another one they are left as they are, and the run is
    stopped by the event alone.
    """
    stop = StopRequest(event)
    with kept_signal_handlers():
        if _in_main_thread():
            for number in SIGNALS:
                signal.signal(number, stop.on_signal)
        yield stop


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back at the end, whatever was put in their place meanwhile."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                if handler is not None:  # None: not put in place by Python
                    signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
