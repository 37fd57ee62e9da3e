"""Units are as large as the setting says where there is enough for every worker, and smaller elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from wanbatch.jobs.planning.unit_sizes import rows_of_a_unit, shortened_at_the_end


def cut(pending: int, workers: int, slots: int = 4, most: int = 16) -> list[np.ndarray]:
    rows = rows_of_a_unit(pending, workers, slots, most)
    units = [np.arange(first, min(pending, first + rows)) for first in range(0, pending, rows)]
    return shortened_at_the_end(units, workers, slots)


def test_every_gpu_has_a_unit_of_a_small_run():
    """In units of 16, 40 rows were 3 units: 5 of 8 GPUs had nothing to do."""
    assert [len(unit) for unit in cut(40, workers=8)] == [5] * 8


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("pending", [1, 3, 17, 40, 250, 10_000])
@pytest.mark.parametrize("slots", [1, 4, 16])
def test_no_image_is_lost_and_slots_are_filled_where_they_can_be(pending, workers, slots):
    units = cut(pending, workers, slots)
    assert np.concatenate(units).tolist() == list(range(pending))
    assert max(map(len, units)) <= 16
    assert all(len(unit) >= min(slots, 16) for unit in units[:-1])
    assert len(units) >= min(workers, pending // slots)


def test_one_worker_gets_units_as_they_are_set():
    assert [len(unit) for unit in cut(40, workers=1)] == [16, 16, 8]


def test_a_large_run_has_whole_units_until_its_end():
    units = [len(unit) for unit in cut(16_000, workers=8)]
    assert units[: 1000 - 16] == [16] * 984
    assert units[984:] == [8] * 32


def test_a_limit_below_the_slots_is_kept():
    assert max(map(len, cut(100, workers=4, slots=16, most=2))) == 2
