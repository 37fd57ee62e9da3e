"""Output folders of somebody else: they can be read, and nothing is written there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_folders import publish

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage.user_files import require_place

NOBODY = 65534


@contextmanager
def somebody_else() -> Iterator[None]:
    """Whoever tests has no right to write; root is somebody else for a while."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


def test_it_is_read_and_not_written():
    with tempfile.TemporaryDirectory() as there:
        out = Path(there) / "out"
        with OutputFolder.open(out, {"model": "tiny"}) as folder:
            publish(folder, 0, ["a", "b"])
        os.chmod(there, 0o755)
        places = [out, *out.glob("**/*")]
        for path in places:
            path.chmod(0o555 if path.is_dir() else 0o444)
        told = r"out: cannot be written to \(Permission denied\) at .*: have its owner let you write there, and run"
        with somebody_else():
            assert status(out)["done"] == 2
            with pytest.raises(UserError, match=told):
                OutputFolder.open(out, {"model": "tiny"})
        for path in places:
            path.chmod(0o755)
        with OutputFolder.open(out, {"model": "tiny"}) as folder:
            assert set(folder.committed().made) == {"a", "b"}


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_in_a_folder_that_only_somebody_else_may_enter_is_refused(folder):
    with tempfile.TemporaryDirectory() as there:  # for its owner alone
        Path(there, "mine").mkdir()
        if os.geteuid() != 0:
            os.chmod(there, 0)
        with (
            somebody_else(),
            pytest.raises(UserError, match=rf"mine/new: cannot be written \(nothing .* to {there}\)"),
        ):
            require_place(Path(there, "mine/new"), folder)
        os.chmod(there, 0o700)
