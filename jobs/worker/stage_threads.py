"""Three stages, each with a thread of its own. No Ray, no model.

While one task is in the model, the next is prepared and the last one written. A task that is prepared may enter the
model while the last images of the one before are made there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
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
        entered: how many have entered it, those that left it included.
    """

    finished: list[R]
    generated: int
    entered: int


class StagePipeline(Generic[T, W, R]):
    """Takes tasks through `prepare`, `generate` and `write`. They finish in the order in which they were submitted.

    The second stage gets one task, and may take those that follow while it is at work on it: `generate(work, follow,
    left)` calls `follow` for the next task, which is None if none is prepared yet, and `left` with each task that it
    is done with, in any order.

    `submit` and `wait_for_status` are for one thread.
    """

    def __init__(
        self,
        prepare: Callable[[T], W],
        generate: Callable[[W, Callable[[], W | None], Callable[[W], None]], object],
        write: Callable[[W], R],
    ):
        self._prepare, self._generate, self._write = prepare, generate, write
        self._prepare_thread, self._model_thread, self._write_thread = (
            ThreadPoolExecutor(1, stage) for stage in ("prepare", "generate", "write")
        )
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[W], Future[W]]] = deque()  # for the second stage: prepared, generated
        self._tasks: deque[tuple[Future[W], Future[R]]] = deque()  # that are here: generated, written
        self._reported = 0, 0  # how many of these had left the second stage at the last status, and had entered it

    def call_in_model_thread(self, function: Callable[[], A]) -> A:
        """Call something in the thread of the second stage, before any task is there."""
        return self._model_thread.submit(function).result()

    def submit(self, task: T) -> None:
        """Take on one more task; returns at once."""
        generated: Future[W] = Future()
        written = self._write_thread.submit(lambda: self._write(generated.result()))
        self._tasks.append((generated, written))
        with self._changed:
            self._waiting.append((self._prepare_thread.submit(self._prepare, task), generated))
        written.add_done_callback(lambda _: self._notify())
        self._model_thread.submit(self._generate_waiting)

    def wait_for_status(self, seconds: float) -> StageStatus[R]:
        """Wait until something has happened since the last status, at most so many seconds.

        Raises what a stage of a task raised, once everything before that task is reported.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._first_is_done() or self._progress() != self._reported, seconds):
                self._changed.wait_for(self._first_is_done, SOON)
            finished: list[R] = []
            while self._first_is_done() and not (finished and self._tasks[0][1].exception()):
                finished.append(self._tasks.popleft()[1].result())
            self._reported = self._progress()
            return StageStatus(finished, *self._reported)

    def _generate_waiting(self) -> None:
        """Take the next task through the second stage, and those that follow; none if an earlier call took it."""
        with self._changed:
            if not self._waiting:
                return
            prepared, generated = self._waiting.popleft()
        self._notify()
        there: dict[int, Future[W]] = {}

        def follow() -> W | None:
            with self._changed:
                if not self._waiting or not self._waiting[0][0].done() or self._waiting[0][0].exception():
                    return None
                prepared, generated = self._waiting.popleft()
            self._notify()
            work = prepared.result()
            there[id(work)] = generated
            return work

        def left(work: W) -> None:
            there.pop(id(work)).set_result(work)
            self._notify()

        try:
            first = prepared.result()
            there[id(first)] = generated
            self._generate(first, follow, left)
        except BaseException as error:  # noqa: BLE001  raised to whoever asks for the status
            for future in (generated, *there.values()):
                if not future.done():
                    future.set_exception(error)

    def _progress(self) -> tuple[int, int]:
        """How many of the tasks that are here, the first ones, have left the second stage and have entered it."""
        left = takewhile(lambda task: task[0].done() and task[0].exception() is None, self._tasks)
        return sum(1 for _ in left), len(self._tasks) - len(self._waiting)

    def _first_is_done(self) -> bool:
        return bool(self._tasks) and self._tasks[0][1].done()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()
