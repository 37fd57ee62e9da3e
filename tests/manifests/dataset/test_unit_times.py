"""When units had their worker's device."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from manifest_making import NOW, timing

from wanbatch.manifests.dataset.unit_times import unit_times
from wanbatch.manifests.records import timing_table


def made(unit: int, seconds: float, denoising: float, worker: str = "w0"):
    """An image whose unit began to be read at some second."""
    return replace(
        timing(f"{worker}-{unit}", unit),
        worker=worker,
        started=NOW + timedelta(seconds=seconds),
        denoise_seconds=denoising,
        load_seconds=5.0,
        write_seconds=5.0,
    )


def test_a_unit_waits_for_the_one_before_it():
    """The second unit's sources are read while the first is in the model; the third comes after a pause."""
    images = [made(0, 0, 4), made(0, 0, 4), made(1, 1, 8), made(2, 100, 2), made(0, 3, 1, "w1")]
    found = unit_times(timing_table(images))
    begin = NOW.timestamp()
    times = [(unit.worker, round(unit.begin - begin, 3), round(unit.end - begin, 3)) for unit in found]
    assert times == [("w0", 0, 8), ("w0", 8, 16), ("w0", 100, 102), ("w1", 3, 4)]
    assert sum(unit.busy for unit in found) == 19


def test_attempts_that_count_are_told_apart_by_their_worker():
    images = [replace(made(0, 0, 4), attempt=1, id="a"), replace(made(0, 9, 4, "w1"), attempt=2, id="b")]
    assert [unit.worker for unit in unit_times(timing_table(images))] == ["w0", "w1"]
