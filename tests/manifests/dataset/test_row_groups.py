"""Parts that are read a row group at a time."""

from __future__ import annotations

import errno
import io

import pytest
from store_folders import publish

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import row_groups
from wanbatch.manifests.storage.backend import open_backend

PART = "data/part-00000.parquet"


class Stale(io.BytesIO):
    """A file of a server that does not know it any more."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")


def test_an_error_while_a_part_is_read_names_it_and_not_what_is_written_of_it(tmp_path, monkeypatch):
    with OutputFolder.open(tmp_path / "out", {"model": "tiny"}) as folder:
        publish(folder, 0, ["a"])
    backend = open_backend(tmp_path / "out")
    assert [group["id"].to_pylist() for group in row_groups(backend, PART)] == [["a"]]
    content = (tmp_path / "out" / PART).read_bytes()
    monkeypatch.setattr(type(backend), "open", lambda backend, name: Stale(content))
    with pytest.raises(OSError, match="Stale file handle") as raised:
        list(row_groups(backend, PART))
    assert raised.value.filename == backend.location(PART)
