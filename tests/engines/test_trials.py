"""Notes of which engines have run on this host."""

from __future__ import annotations

import json

import pytest

from wanbatch.engines import probe, trials
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import EngineKey, StoredEngine


def engine(name: str) -> StoredEngine:
    key = EngineKey(name, "weights", 0, 0, 2, "float32", "aot", "torch", "cpu")
    return StoredEngine(key, {f"{key.name}.pt2": (name, 1)}, notes={"probe": {}})


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Store.create(tmp_path / "store")


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """Names of engines that another process was asked to run; it fails at one that is called `bad`."""
    found: list[list[str]] = []

    def run_elsewhere(wanted, seconds):
        names = [one["path"].rpartition("/")[2].partition("-")[0] for one in wanted]
        found.append(names)
        return (names.index("bad"), "its process ended by SIGSEGV") if "bad" in names else (len(names), None)

    monkeypatch.setattr(probe, "_run_elsewhere", run_elsewhere)
    return found


def test_engines_that_ran_are_not_tried_again(store, asked):
    assert probe.failure_of(store, [engine("text"), engine("dit")]) is None
    assert probe.failure_of(store, [engine("dit"), engine("text")]) is None
    assert probe.failure_of(store, [engine("dit"), engine("dit_2")]) is None
    assert asked == [["text", "dit"], ["dit_2"]]


def test_one_that_does_not_run_is_tried_each_time(store, asked):
    for _ in range(2):
        assert probe.failure_of(store, [engine("text"), engine("bad")]) is not None
    assert asked == [["text", "bad"], ["bad"]]


def test_notes_are_of_one_start_of_the_host(store, asked, tmp_path, monkeypatch):
    assert probe.failure_of(store, [engine("text")]) is None
    boot = tmp_path / "boot_id"
    boot.write_text("another start")
    monkeypatch.setattr(trials, "BOOT", boot)
    assert probe.failure_of(store, [engine("text")]) is None
    assert asked == [["text"], ["text"]]


@pytest.mark.parametrize("hindrance", ["no start", "a file in the way"])
def test_without_notes_engines_are_tried_each_time(store, asked, tmp_path, monkeypatch, hindrance):
    if hindrance == "no start":
        monkeypatch.setattr(trials, "BOOT", tmp_path / "none")
    else:
        (tmp_path / "cache").write_text(json.dumps("a file"))
    for _ in range(2):
        assert probe.failure_of(store, [engine("text")]) is None
    assert asked == [["text"], ["text"]]
