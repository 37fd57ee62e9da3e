"""The checks of a folder are written by who holds it, and by nobody else."""

from __future__ import annotations

import pyarrow as pa
import pytest

from wanbatch.manifests.dataset.checks import NOTE, checks_note, checks_tables, write_checks
from wanbatch.manifests.storage.local import LocalBackend
from wanbatch.manifests.storage.urls import INTERNAL

TABLE = pa.table({"id": ["a"], "rejected_by": pa.array([[]], pa.list_(pa.string()))})


class BackendThatLosesItsLease(LocalBackend):
    """Another process takes the folder over once this one has written so many files."""

    writes = 0
    may_write = 10

    def ensure_writer(self) -> None:
        if self.writes >= self.may_write:
            raise OSError("the lease of the folder was lost")

    def write_atomic(self, name: str, data: bytes) -> None:
        super().write_atomic(name, data)
        self.writes += 1


@pytest.mark.parametrize("may_write", [0, 1])
def test_nothing_is_removed_or_written_of_a_folder_that_another_process_has(tmp_path, may_write):
    backend = BackendThatLosesItsLease(tmp_path)
    backend.make_folders([INTERNAL])
    write_checks(
        backend, [("data/part-00000.parquet", TABLE), ("data/part-00001.parquet", TABLE)], lambda: {"pictures": 2}
    )
    noted = backend.read(NOTE)
    backend.writes, backend.may_write = 0, may_write
    with pytest.raises(OSError, match="lease of the folder was lost"):
        write_checks(backend, [("data/part-00000.parquet", TABLE)], lambda: {"pictures": 1})
    assert sorted(backend.sizes("checks")) == [f"checks/part-{part:05d}.parquet" for part in (0, 1)]
    assert backend.read(NOTE) == noted


def test_the_note_is_of_who_holds_the_folder(tmp_path):
    """Also where there is nothing to remove before it."""
    backend = BackendThatLosesItsLease(tmp_path)
    backend.make_folders([INTERNAL])
    backend.may_write = 1
    with pytest.raises(OSError, match="lease of the folder was lost"):
        write_checks(backend, [("data/part-00000.parquet", TABLE)], dict)
    assert checks_note(backend) is None
    assert len(list(checks_tables(backend))) == 1
