"""The folder of sources: one that cannot be looked at is not taken for a missing one."""

import errno
import os

import pytest

from wanbatch.errors import MachineryError
from wanbatch.manifests.reading.manifest import read_manifest

GOOD = {"prompt": "a red heart"}


def test_a_source_root_that_cannot_be_looked_at_is_not_taken_for_none(jsonl, tmp_path, monkeypatch):
    look = os.stat
    root = tmp_path / "shared"
    root.mkdir()

    def stale(path, *rest, **named):
        if str(path) == str(root):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return look(path, *rest, **named)

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(MachineryError, match="shared: cannot be looked at"):
        read_manifest(jsonl(GOOD), source_root=root)
