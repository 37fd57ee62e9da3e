"""Three stages, each with a thread of its own that takes one task at a time. No Ray, no model.

While one task is in the model, the next is prepared and the last one written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

SOON = 0.05  # seconds to wait for a task that has just left the model, so that it is reported once, as finished

T = TypeVar("T")
W = TypeVar("W")
R = TypeVar("R")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class StageStatus(Generic[R]):
    """What has happened since the last status.

    Attributes:
        finished: results, in the order in which the tasks were submitted.
        generated: how many of the tasks that are still here, the first ones, have left the second stage.
    """

    finished: list[R]
    generated: int


class StagePipeline(Generic[T, W, R]):
    """Takes tasks through `prepare`, `generate` and `write` in the order in which they were submitted.

    `submit` and `wait_for_status` are for one thread.
    """

    def __init__(self, prepare: Callable[[T], W], generate: Callable[[W], object], write: Callable[[W], R]):
        self._prepare, self._generate, self._write = prepare, generate, write
        self._prepare_thread, self._model_thread, self._write_thread = (
            ThreadPoolExecutor(1, stage) for stage in ("prepare", "generate", "write")
        )
        self._tasks: deque[Future[R]] = deque()
        self._changed = threading.Condition()
        self._generated = 0  # of the tasks that are here
        self._reported = 0  # of these, in the last status

    def call_in_model_thread(self, function: Callable[[], A]) -> A:
        """Call something in the thread of the second stage, before any task is there."""
        return self._model_thread.submit(function).result()

    def submit(self, task: T) -> None:
        """Take on one more task; returns at once."""
        prepared = self._prepare_thread.submit(self._prepare, task)
        generated = self._model_thread.submit(self._generate_one, prepared)
        written = self._write_thread.submit(lambda: self._write(generated.result()))
        self._tasks.append(written)
        written.add_done_callback(lambda _: self._notify())

    def wait_for_status(self, seconds: float) -> StageStatus[R]:
        """Wait until something has happened since the last status, at most so many seconds.

        Raises what a stage of a task raised, once everything before that task is reported.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._first_is_done() or self._generated != self._reported, seconds):
                self._changed.wait_for(self._first_is_done, SOON)
            finished: list[R] = []
            while self._first_is_done() and not (finished and self._tasks[0].exception()):
                finished.append(self._tasks.popleft().result())
            self._generated -= len(finished)
            self._reported = self._generated
            return StageStatus(finished, self._generated)

    def _generate_one(self, prepared: Future[W]) -> W:
        work = prepared.result()
        self._generate(work)
        with self._changed:
            self._generated += 1
        self._notify()
        return work

    def _first_is_done(self) -> bool:
        return bool(self._tasks) and self._tasks[0].done()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()
