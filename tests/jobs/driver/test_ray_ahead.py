"""Ray is started while a new folder's run is still prepared, and never left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from job_making import write_jsonl

from wanbatch.errors import MachineryError, ManifestError, UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver import ray_ahead
from wanbatch.jobs.driver.ray_ahead import RayAhead, seems_unfinished, workers_to_expect
from wanbatch.jobs.driver.run import PRELOAD, run
from wanbatch.manifests.dataset.event_log import log_line
from wanbatch.manifests.reading import validation
from wanbatch.manifests.storage.local_lock import FolderLock


@pytest.fixture
def events(monkeypatch) -> list[tuple[str, threading.Thread]]:
    """What a Ray in place of the real one saw, and in which thread. What runs within one of them finds it there."""
    seen: list[tuple[str, threading.Thread]] = []

    @contextmanager
    def local_ray(workers: int = 1, preload: str | None = None):
        assert preload in ("a.module", PRELOAD)
        if seen:
            yield
            return
        seen.append(("started", threading.current_thread()))
        try:
            yield
        finally:
            seen.append(("stopped", threading.current_thread()))

    monkeypatch.setattr(ray_ahead, "local_ray", local_ray)
    return seen


def asked_for(ahead: RayAhead, out: str | Path, **settings) -> None:
    ahead.start_for(Settings(**settings), out)


def test_it_starts_in_a_thread_that_also_stops_it_when_the_session_ends(events, tmp_path):
    with RayAhead("a.module") as ahead:
        asked_for(ahead, tmp_path / "new")
        with ahead.session(2):
            assert [name for name, _ in events] == ["started"]
        assert [name for name, _ in events] == ["started", "stopped"]
    (_, started), (_, stopped) = events
    assert started is stopped is not threading.current_thread()
    assert not started.is_alive()


@pytest.mark.parametrize(
    ("settings", "visible", "expected"),
    [
        ({}, None, 3),
        ({"workers": 2}, None, 2),
        ({"workers": 5}, None, 3),
        ({}, "1,2", 2),
        ({}, "", 4),
        ({"device": "cpu"}, None, 4),
        ({"device": "cpu", "threads": 8}, None, 2),
        ({"device": "cpu", "workers": 3}, None, 3),
    ],
)
def test_as_many_processes_of_workers_start_as_there_are_gpus(monkeypatch, tmp_path, settings, visible, expected):
    """Without any, as many as the cores are for, and no more than 4 before it is known how many units there are."""
    monkeypatch.setattr(ray_ahead, "workers_here", lambda threads: 16 // threads)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert workers_to_expect(Settings(**settings), tmp_path) == expected


@pytest.mark.parametrize(
    ("events", "unfinished"),
    [
        ([], False),
        (["started", "unit"], True),
        (["started", "interrupted"], True),
        (["interrupted", "started", "finished"], False),
    ],
    ids=["no run yet", "killed", "interrupted", "finished"],
)
def test_a_folder_that_its_last_run_left_unfinished(tmp_path, events, unfinished):
    pending = {"started": {"pending": 5}, "interrupted": {"pending": 3}, "finished": {"pending": 0}}
    log = tmp_path / "_wanbatch" / "log.jsonl"
    log.parent.mkdir()
    log.write_bytes(b"".join(log_line(event, **pending.get(event, {})) for event in events))
    assert seems_unfinished(tmp_path) == unfinished
    with log.open("ab") as file:
        file.write(b'{"time": "2026-')  # cut off by a kill
    assert seems_unfinished(tmp_path) == unfinished


def test_a_folder_that_another_run_holds_is_left_alone(tmp_path):
    log = tmp_path / "_wanbatch" / "log.jsonl"
    log.parent.mkdir()
    log.write_bytes(log_line("unit"))
    assert seems_unfinished(tmp_path)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert not seems_unfinished(tmp_path)
    lock.release()
    assert seems_unfinished(tmp_path)


def test_it_starts_once(events, tmp_path):
    """First for the first rows of a long manifest, then for all of it."""
    with RayAhead("a.module") as ahead:
        asked_for(ahead, tmp_path / "new")
        asked_for(ahead, tmp_path / "new")
        with ahead.session(1):
            pass
    assert [name for name, _ in events] == ["started", "stopped"]


@pytest.mark.parametrize(
    ("out", "settings"),
    [
        (lambda folder: folder, {}),
        (lambda folder: "s3://bucket/new", {}),
        (lambda folder: folder / "new", {"slots": "auto"}),
    ],
    ids=["a folder that may lack nothing", "a folder in a store", "slots are timed"],
)
def test_otherwise_it_starts_when_it_is_needed(events, tmp_path, out: Callable[[Path], str | Path], settings):
    with RayAhead("a.module") as ahead:
        asked_for(ahead, out(tmp_path), **settings)
        assert events == []
        with ahead.session(2):
            assert events == [("started", threading.current_thread())]
    assert [name for name, _ in events] == ["started", "stopped"]


def test_an_error_meanwhile_leaves_none(events, tmp_path):
    def prepare() -> None:
        with RayAhead("a.module") as ahead:
            asked_for(ahead, tmp_path / "new")
            raise UserError("the folder is held")

    with pytest.raises(UserError, match="the folder is held"):
        prepare()
    assert [name for name, _ in events] == ["started", "stopped"]


@pytest.mark.parametrize(
    ("rows", "started"),
    [(10, []), (30, ["started", "stopped"])],
    ids=["a short one", "a long one, whose first rows are right"],
)
def test_a_manifest_that_is_wrong_leaves_none(events, monkeypatch, tmp_path, rows, started):
    monkeypatch.setattr(validation, "FIRST_ROWS", 20)
    lines = [{"prompt": "a hill"}] * (rows - 1) + [{"prompt": "a hill", "steps": -1}]
    manifest = write_jsonl(tmp_path / "shop.jsonl", lines)
    with pytest.raises(ManifestError, match=rf"shop.jsonl:{rows}: steps"):
        run(manifest, tmp_path / "new", Settings(slots=2))
    assert [name for name, _ in events] == started
    assert not (tmp_path / "new").exists()


def test_that_it_does_not_start_is_told_where_it_is_needed(monkeypatch, tmp_path):
    @contextmanager
    def local_ray(workers: int = 1, preload: str | None = None):
        raise MachineryError("Ray did not start")
        yield

    monkeypatch.setattr(ray_ahead, "local_ray", local_ray)
    with RayAhead("a.module") as ahead:
        asked_for(ahead, tmp_path / "new")
        with pytest.raises(MachineryError, match="Ray did not start"), ahead.session(1):
            pytest.fail("there is none")
