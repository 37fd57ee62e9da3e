"""Fixtures for the tests of `wanbatch tune`: a manifest with rows of every kind, and a small model."""

from __future__ import annotations

import json

import pytest

from wanbatch.pipeline.evaluation import lpips
from wanbatch.pipeline.generate import Wan

ROWS = [
    {"id": "heart", "prompt": "a red heart", "seed": 1},
    {"id": "star", "prompt": "a big star on the left", "seed": 2, "width": 64, "height": 32},
    {"id": "own", "prompt": "a circle", "steps": 9, "sampler": "euler"},
    {"id": "again", "prompt": "", "image": "square.png", "creativity": 0.8, "seed": 3},
    {"id": "source", "image": "square.png", "creativity": 0.0},
    {"id": "gone", "image": "nowhere.png", "prompt": "a star"},
]


@pytest.fixture(autouse=True)
def _no_lpips(monkeypatch):
    """LPIPS is not measured unless it is asked for, wherever this runs."""
    monkeypatch.setattr(lpips, "at_hand", lambda: False)


@pytest.fixture
def rows(sources, tmp_path):
    """The manifest and its pictures, in the current folder."""
    (tmp_path / "square.png").write_bytes((sources / "square.png").read_bytes())
    path = tmp_path / "shop.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def wan(model) -> Wan:
    return Wan.load(model, "cpu", "float32", 4)
