"""Fixtures for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from command_line import invoke, refused
from job_making import snapshot


@pytest.fixture
def invoke_unwritten(model_folder, tmp_path) -> Callable[..., Result]:
    """`wanbatch run` of a manifest; checks that nothing at all was written."""

    def run(path: Path, *options: object, env: dict[str, str] | None = None) -> Result:
        before, folders = snapshot(tmp_path), _folders(tmp_path)
        result = invoke("run", path, "--out", "out", "--model", model_folder, *options, env=env)
        assert not (tmp_path / "out").exists()
        assert (snapshot(tmp_path), _folders(tmp_path)) == (before, folders)
        return result

    return run


@pytest.fixture
def run_bad(invoke_unwritten) -> Callable[..., list[str]]:
    """The message of a run that is refused and that wrote nothing."""

    def run(path: Path, *options: object, lines: int = 1, env: dict[str, str] | None = None) -> list[str]:
        return refused(invoke_unwritten(path, *options, env=env), lines)

    return run


def _folders(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_dir()}
