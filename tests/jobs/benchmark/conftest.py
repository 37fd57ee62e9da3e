"""Sizes for these tests: what is timed is small, as the figures mean nothing here."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from wanbatch.jobs.benchmark import compare, stages


@pytest.fixture(autouse=True)
def _small_stages(monkeypatch) -> None:
    """Few prompts in bulk and small matrices, in place of what keeps a GPU busy.

    Garbage is not searched for before each comparison: in a process of tests that takes longer than what is timed.
    """
    monkeypatch.setattr(stages, "BULK", 6)
    monkeypatch.setattr(stages, "MATMUL", {"cpu": 128})
    for module in (compare, stages):
        monkeypatch.setattr(module, "short_search_for_garbage", nullcontext)
