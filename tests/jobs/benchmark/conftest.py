"""Sizes for these tests: what is timed is small, as the figures mean nothing here."""

from __future__ import annotations

import pytest

from wanbatch.jobs.benchmark import stages


@pytest.fixture(autouse=True)
def _small_stages(monkeypatch) -> None:
    """Few prompts in bulk, and small matrices, in place of what keeps a GPU busy."""
    monkeypatch.setattr(stages, "BULK", 6)
    monkeypatch.setattr(stages, "MATMUL", {"cpu": 128})
