"""Rows of numbers in a temporary file come back as they were, in whatever order they are asked for."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest

from wanbatch.jobs.augment import numbers_on_disk
from wanbatch.jobs.augment.numbers_on_disk import NumbersOnDisk


@pytest.mark.parametrize(("dtype", "length"), [(np.float32, 5), (np.float64, 1), (np.uint8, 192)])
def test_rows_come_back_by_slices_and_by_places(dtype, length):
    rows = np.random.default_rng(0).integers(0, 256, (300, length)).astype(dtype)
    with NumbersOnDisk() as kept:
        kept.add(rows[:1])
        kept.add(rows[1:200])
        assert np.array_equal(kept[0:200], rows[:200])
        kept.add(rows[200:, ::-1][:, ::-1])  # not one after the other in memory
        assert len(kept) == 300
        for places in (slice(0, 300), slice(7, 9), slice(290, 400), slice(5, 5), slice(400, 500)):
            assert np.array_equal(kept[places], rows[places])
        for chosen in ([0], [299, 0, 1, 2, 2, 7], np.random.default_rng(1).permutation(300), []):
            found = kept[np.array(chosen, np.int64)]
            assert found.dtype == dtype
            assert np.array_equal(found, rows[np.array(chosen, np.int64)])


def test_rows_in_another_order(monkeypatch):
    monkeypatch.setattr(numbers_on_disk, "COPIED", 7)
    rows = np.random.default_rng(0).normal(0, 1, (50, 3))
    order = np.random.default_rng(1).permutation(50)
    with NumbersOnDisk() as kept:
        kept.add(rows)
        assert kept.in_order(np.arange(50)) is kept
        with kept.in_order(order) as other:
            assert np.array_equal(other[0:50], rows[order])
        assert np.array_equal(kept[0:50], rows)


def test_nothing_is_there_before_the_first_row_and_rows_of_another_kind_are_refused():
    with NumbersOnDisk() as kept:
        assert (len(kept), len(kept[0:10])) == (0, 0)
        kept.add(np.zeros((1, 3), np.float32))
        with pytest.raises(ValueError, match="rows of 4 float32 among those of 3 float32"):
            kept.add(np.zeros((1, 4), np.float32))
        with pytest.raises(ValueError, match="rows of 3 float64 among those of 3 float32"):
            kept.add(np.zeros((1, 3)))


def test_the_file_has_no_name_and_a_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with NumbersOnDisk() as kept:
        kept.add(np.zeros((1000, 300)))
        assert os.listdir(tmp_path) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with NumbersOnDisk() as kept, pytest.raises(OSError, match="gone"):
        kept.add(np.zeros((1, 1)))
