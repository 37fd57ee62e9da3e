"""Calls in processes of their own: what they return, and what becomes of those that fail or die."""

from __future__ import annotations

import os
import time
from functools import partial

from wanbatch.jobs.driver import tasks
from wanbatch.jobs.driver.tasks import CallFailed, run_tasks


def works(number: int) -> tuple[int, int, float, float]:
    begin = time.time()
    time.sleep(0.3)
    return number, os.getpid(), begin, time.time()


def fails() -> None:
    raise ValueError("of no use\nand a line more")


def dies() -> None:
    os._exit(3)


def test_calls_end_with_what_they_returned_or_why_they_failed(monkeypatch):
    monkeypatch.setattr(tasks, "TRIES", 0)
    ended: dict[int, object] = {}
    calls = [*(partial(works, number) for number in range(2)), fails, dies]
    run_tasks(calls, 1, False, lambda index, outcome: ended.update({index: outcome}))
    done = [ended[index] for index in range(2)]
    assert [each[0] for each in done] == [0, 1]
    assert os.getpid() not in {each[1] for each in done}
    assert done[0][3] <= done[1][2]  # one at once
    assert isinstance(ended[2], CallFailed)
    assert str(ended[2]) == "and a line more"
    assert isinstance(ended[3], CallFailed)
    assert "its process was lost 1 times" in str(ended[3])
