"""Fixtures for the tests of `wanbatch.manifests.sharing`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from picture_folders import ODD_IDS as IDS
from picture_folders import fill


@pytest.fixture
def out(tmp_path) -> Path:
    """A finished output folder with pictures of odd ids, a row that failed, and columns of the manifest."""
    count = len(IDS)
    own = pa.table(
        {
            "shop": pa.array(["süd"] * count),
            "score": pa.array([0.5, float("nan"), *[1.0] * (count - 2)]),
            "raw": pa.array([b"\x00\xff"] * count),
            "seen": pa.array([datetime(2030, 1, 2, tzinfo=UTC)] * count, pa.timestamp("us", tz="UTC")),
        }
    )
    return fill(tmp_path / "out", IDS, failed=["bad"], passthrough=own)
