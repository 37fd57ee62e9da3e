"""Adapters on the hub: found again where it must not be asked. In processes of their own, which read variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import hub

LOCATE = "import sys; from wanbatch.pipeline.adapters.location import locate; print(locate(sys.argv[1]))"


@pytest.fixture
def located(tmp_path) -> Callable[..., str]:
    """Where an adapter is, as a process on this host finds it. variables: its, besides those of its home."""

    def run(path: str, **variables: str) -> str:
        environment = {**os.environ, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), **variables}
        done = subprocess.run(
            [sys.executable, "-c", LOCATE, path], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_an_adapter_that_was_fetched_is_found_offline_by_its_repository_alone(located, tmp_path):
    """Although the repository has files that nobody fetched."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "night.safetensors").write_bytes(b"weights")
    (repository / "README.md").write_text("# Night\n")
    with hub("owner/night", repository) as server:
        server.kind = "models"
        found = located("owner/night", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0")
        server.seen.clear()
        assert located("owner/night", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1") == found
        assert server.seen == []
    assert Path(found).read_bytes() == b"weights"
