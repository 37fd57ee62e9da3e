"""Parts that are read a row group at a time."""

from __future__ import annotations

import errno
import io
from contextlib import contextmanager

import pytest
from store_folders import publish

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import row_groups
from wanbatch.manifests.dataset.rewrite import write_replacements
from wanbatch.manifests.storage.atomic_files import named
from wanbatch.manifests.storage.backend import open_backend

PART = "data/part-00000.parquet"


class LaterStale(io.BytesIO):
    """A file of a server that does not know it any more after some reads."""

    def __init__(self, content: bytes, reads: int):
        super().__init__(content)
        self.left = reads

    def read(self, size: int | None = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ESTALE, "Stale file handle")
        return super().read(size)


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


def test_so_does_one_while_a_part_is_written_without_some_rows(tmp_path, monkeypatch):
    with OutputFolder.open(tmp_path / "out", {"model": "tiny"}) as folder:
        publish(folder, 0, ["a", "b"])
    backend = open_backend(tmp_path / "out")
    location, content, left = backend.location(PART), (tmp_path / "out" / PART).read_bytes(), 0

    @contextmanager
    def opened(backend, name):
        with named(location), LaterStale(content, left) as file:
            yield file

    monkeypatch.setattr(type(backend), "open", opened)
    with pytest.raises(OSError, match="Stale file handle") as raised:
        write_replacements(backend, "x", {PART: {"a"}})
    assert raised.value.filename == location, "its footer"
    failed = []
    while True:
        left += 1
        try:
            [new] = write_replacements(backend, "x", {PART: {"a"}})
        except OSError as error:
            failed.append((error.filename, error.errno))
        else:
            break
    assert new.temporary is not None
    assert set(failed) == {(location, errno.ESTALE)}, "its rows"
