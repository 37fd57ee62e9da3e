"""Something that happens again and again in another thread while a test is at work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def meanwhile(work: Callable[[int], None], least: int = 1, pause: float = 0.0) -> Iterator[None]:
    """Have a thread do the work until the end, and check that it did.

    Args:
        work: Gets the number of times that it was done before.
        least: How often it must have been done.
        pause: Seconds before each time.
    """
    stop = threading.Event()

    def repeated() -> int:
        done = 0
        while not stop.wait(pause):
            work(done)
            done += 1
        return done

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(repeated)
        try:
            yield
        finally:
            stop.set()
        assert done.result(120) >= least
