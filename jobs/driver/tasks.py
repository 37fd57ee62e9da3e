"""Calls that are made in processes of their own by Ray, some at once, each as soon as there is room for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray import exceptions

from wanbatch.jobs.driver.ray_errors import WorkerGone, ray_failures_raised, result_of
from wanbatch.jobs.driver.ray_session import ensure_ray_can_start, local_ray

T = TypeVar("T")
TRIES = 2  # of a call more, whose process was lost


class CallFailed(Exception):
    """A call raised an error, or its process was lost several times."""


def run_tasks(
    calls: Sequence[Callable[[], T]], at_once: int, gpu: bool, ended: Callable[[int, T | CallFailed], None]
) -> None:
    """Make calls in processes of Ray on this machine.

    Args:
        calls: What is called; each is pickled.
        at_once: How many are made at the same time at most.
        gpu: Whether each has a GPU of its own, which is then the only one that it sees.
        ended: Called with the index of each call that has ended, and what it returned.

    Raises:
        UserError: Ray cannot start on this machine.
        MachineryError: Ray does not start, or fails.
    """
    ensure_ray_can_start()
    with local_ray(), ray_failures_raised():
        waiting = deque(enumerate(calls))
        running: dict[ray.ObjectRef, int] = {}
        task: Any = ray.remote(num_cpus=0, num_gpus=int(gpu), max_retries=TRIES, max_calls=1)(_made)
        while waiting or running:
            while waiting and len(running) < at_once:
                index, call = waiting.popleft()
                running[task.remote(call)] = index
            (done,), _ = ray.wait(list(running), num_returns=1)
            ended(running.pop(done), _outcome(done))


def _made(call: Callable[[], T]) -> T:
    return call()


def _outcome(ref: ray.ObjectRef) -> Any:
    try:
        return result_of(ref)
    except WorkerGone as gone:
        return CallFailed(f"its process was lost: {gone}")
    except exceptions.RayTaskError as error:
        cause = error.cause
        return CallFailed(f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}")
