"""How many workers a machine without a GPU has: its cores, its memory and its limit of threads. No Ray."""

from __future__ import annotations

import pytest
from job_making import write_jsonl

from wanbatch.jobs.driver import cpu_workers
from wanbatch.jobs.driver.cpu_workers import OTHER_BYTES, WORKER_BYTES, workers_with_room
from wanbatch.jobs.driver.run_context import prepare_run

GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine another one."""

    def make(cores: int, memory: int = 64 * GIB, rooms: dict[str, int] | None = None) -> None:
        monkeypatch.setattr(cpu_workers, "usable_cores", lambda: cores)
        monkeypatch.setattr(cpu_workers, "available_memory", lambda: memory)
        monkeypatch.setattr(cpu_workers, "room_for_threads", lambda: rooms or {})

    return make


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a ball"}])


@pytest.mark.parametrize(
    ("cores", "threads", "memory", "rooms", "expected"),
    [
        (1, 2, 64 * GIB, {}, 1),
        (2, 2, 64 * GIB, {}, 1),
        (8, 2, 64 * GIB, {}, 4),
        (7, 2, 64 * GIB, {}, 3),
        (8, 8, 64 * GIB, {}, 1),
        (8, 2, OTHER_BYTES + 3 * WORKER_BYTES, {}, 3),
        (8, 2, GIB // 2, {}, 1),
        (8, 2, 64 * GIB, {"user": 4000, "group": 370}, 3),
        (8, 2, 64 * GIB, {"group": 160}, 1),
    ],
)
def test_as_many_as_there_is_room_for(cores, threads, memory, rooms, expected):
    assert workers_with_room(cores, threads, memory, WORKER_BYTES, rooms) == expected


def test_a_run_has_them_and_the_pixels_of_any_other_number(machine, rows, settings, tmp_path):
    """A folder that was begun on two cores goes on, on eight: its threads, and so its bits, are the same."""
    prepared = {}
    for cores in (2, 8):
        machine(cores)
        prepared[cores] = prepare_run(rows, tmp_path / "out", settings(device="cpu"))
    assert [one.workers for one in prepared.values()] == [1, 4]
    assert prepared[2].fingerprint == prepared[8].fingerprint
    assert prepared[8].fingerprint["threads"] == 2
    assert prepare_run(rows, tmp_path / "out", settings(device="cpu", workers=3)).workers == 3
    assert prepare_run(rows, tmp_path / "out", settings(device="cpu", threads=8)).workers == 1


def test_a_large_model_is_in_the_memory_as_often_as_it_fits(machine, rows, settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cpu_workers, "needed_memory", lambda *given: {"all of it": 20 * GIB})
    machine(16, memory=64 * GIB)
    assert prepare_run(rows, tmp_path / "out", settings(device="cpu")).workers == 3
    assert "there is memory for 3 of the 8 workers of 2 threads that 16 cores could have" in caplog.text
    assert "a new folder may have --threads 5 instead" in caplog.text
    caplog.clear()
    found = prepare_run(rows, tmp_path / "another", settings(device="cpu", threads=5))
    assert (found.workers, found.fingerprint["threads"], caplog.text) == (3, 5, "")
    machine(16, memory=4 * GIB)
    assert prepare_run(rows, tmp_path / "out", settings(device="cpu")).workers == 1, "one is tried"
