"""Three stages, each with a thread of its own that takes one task at a time, and what there is to tell of them.

While one task is made, the next is prepared and the last one finished. No Ray, no model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

SOON = 0.05  # seconds that a task which has just been made is waited for, so that it is told once, as finished

T = TypeVar("T")
W = TypeVar("W")
R = TypeVar("R")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class StageStatus(Generic[R]):
    """What has happened since the last news.

    finished: results, in the order in which the tasks were put in. made: how many of the tasks that are still here,
    the first ones, have been made.
    """

    finished: list[R]
    made: int


class StagePipeline(Generic[T, W, R]):
    """Tasks go through `prepare`, `make` and `finish` in the order in which they were put in.

    `put` and `news` are for one thread.
    """

    def __init__(self, prepare: Callable[[T], W], make: Callable[[W], object], finish: Callable[[W], R]):
        self._prepare, self._make, self._finish = prepare, make, finish
        self._preparing, self._making, self._finishing = (
            ThreadPoolExecutor(1, stage) for stage in ("prepare", "make", "finish")
        )
        self._here: deque[Future[R]] = deque()
        self._changed = threading.Condition()
        self._made = 0  # of those that are here
        self._told = 0  # of these, as of the last news

    def call_in_making(self, function: Callable[[], A]) -> A:
        """Call something in the thread that makes, before any task is there."""
        return self._making.submit(function).result()

    def put(self, task: T) -> None:
        """Take on one more task; returns at once."""
        prepared = self._preparing.submit(self._prepare, task)
        made = self._making.submit(self._make_one, prepared)
        finished = self._finishing.submit(lambda: self._finish(made.result()))
        self._here.append(finished)
        finished.add_done_callback(lambda _: self._notify())

    def news(self, patience: float) -> StageStatus[R]:
        """Wait until there is something new, at most `patience` seconds.

        Raises what a stage raised, when everything before that task is told.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._first_is_done() or self._made != self._told, patience):
                self._changed.wait_for(self._first_is_done, SOON)
            finished: list[R] = []
            while self._first_is_done() and not (finished and self._here[0].exception()):
                finished.append(self._here.popleft().result())
            self._made -= len(finished)
            self._told = self._made
            return StageStatus(finished, self._made)

    def _make_one(self, prepared: Future[W]) -> W:
        work = prepared.result()
        self._make(work)
        with self._changed:
            self._made += 1
        self._notify()
        return work

    def _first_is_done(self) -> bool:
        return bool(self._here) and self._here[0].done()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()
