"""Progress that lets a test act on a run from inside its loop, and the settings of small runs."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

from wanbatch.jobs.reporting.progress import JsonLines

SMALL = {"model": "tiny", "width": 32, "height": 32, "steps": 2}


class ProgressHook(JsonLines):
    """Progress that lets a test do something to the run, from inside its loop."""

    def __init__(self, total: int, before: int, hook: Callable[[], object]):
        super().__init__(total, before, StringIO())
        self._hook = hook

    def update(self, made: int, failed: int) -> None:
        super().update(made, failed)
        self._hook()
