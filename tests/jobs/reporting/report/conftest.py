"""Fixtures for the tests of reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_folders import fill_folder, source_files, write_checks

from wanbatch.manifests.dataset.committed_parts import CommittedParts


@pytest.fixture(scope="package")
def filled(tmp_path_factory) -> Path:
    """A finished folder: 22 images of 24 rows, three classes, four creativities, sources, checks."""
    folder = tmp_path_factory.mktemp("report")
    out = folder / "it's out"
    fill_folder(out, 3, 8, 2, 0, source_files(folder / "pictures"), folder / "pictures")
    made = CommittedParts.open(out).table("data", ["id"])["id"].to_pylist()
    write_checks(out, made)
    return out
