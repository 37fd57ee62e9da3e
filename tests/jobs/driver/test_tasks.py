"""Calls in processes of their own: what they return, and what becomes of those that fail or die."""

from __future__ import annotations

import os
import time
from functools import partial

import pytest

from wanbatch.jobs.driver import tasks
from wanbatch.jobs.driver.tasks import CallFailed, run_tasks


@pytest.mark.usefixtures("local_ray")
def test_calls_end_with_what_they_returned_or_why_they_failed(monkeypatch):
    # Inside the test, so that they are pickled themselves and not by the name of this file.
    def works(number: int) -> tuple[int, int, float, float]:
        begin = time.time()
        time.sleep(0.3)
        return number, os.getpid(), begin, time.time()

    def fails() -> None:
        raise ValueError("of no use\nand a line more")

    def dies() -> None:
        os._exit(3)

    monkeypatch.setattr(tasks, "TRIES", 0)
    ended: dict[int, object] = {}
    calls = [*(partial(works, number) for number in range(2)), fails, dies]
    run_tasks(calls, 1, False, lambda index, outcome: ended.update({index: outcome}))
    (first, second, failed, died) = (ended[index] for index in range(4))
    assert (first[0], second[0]) == (0, 1)
    assert os.getpid() not in {first[1], second[1]}
    assert first[3] <= second[2]  # one at once
    assert isinstance(failed, CallFailed)
    assert str(failed) == "ValueError: of no use"
    assert isinstance(died, CallFailed)
    assert str(died).startswith("its process was lost: ")
