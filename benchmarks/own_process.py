"""Parts of a benchmark that run in a process of their own, so that one finds nothing of another on the GPU."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


def in_a_process(work: Callable[..., Iterable[Any]], *given: Any) -> Iterator[Any]:
    """What a function yields that runs in a new process, each as soon as it is there.

    The process has ended, and has given its memory back, when this is at its end.

    Args:
        work: of a module, so that the process can import it; what it yields can be pickled.
        given: its arguments, likewise.

    Raises:
        SystemExit: The process ended with an error, which it has printed, or was killed.
    """
    context = multiprocessing.get_context("spawn")
    received, sent = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sent, work, given))
    process.start()
    sent.close()  # the process has the only other one: at its end there is nothing more to come
    with suppress(EOFError, OSError):  # the latter in the middle of something
        while True:
            yield received.recv()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the process of {work.__name__} ended with exit code {process.exitcode}")


def _send(sent: Connection, work: Callable[..., Iterable[Any]], given: tuple[Any, ...]) -> None:
    for found in work(*given):
        sent.send(found)
