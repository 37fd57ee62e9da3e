"""Notes of which engines have run on this host."""

from __future__ import annotations

import json
import sys

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


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "loading\ndid not run: RuntimeError: no such kernel\n[W1127] destroyed late\n",
            "RuntimeError: no such kernel",
        ),
        (
            "Error: expected size 8==8, stride 4==1 at dim=1\nError in op: aten.convolution\n"
            "did not run: RuntimeError: run_func_(...) API call failed at runner.cpp, line 145\n",
            "RuntimeError: run_func_(...) API call failed at runner.cpp, line 145: "
            "expected size 8==8, stride 4==1 at dim=1",
        ),
        ("Error: stride 4==1\ndid not run: RuntimeError: stride 4==1\n", "RuntimeError: stride 4==1"),
        ("ImportError: libcuda.so.1\n", "ImportError: libcuda.so.1"),
        ("", "its process ended with 1"),
    ],
    ids=["warnings after it", "said by the library", "said twice", "before anything was tried", "nothing"],
)
def test_of_what_a_trial_writes_what_was_wrong_is_said(written, said, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stderr.write({written!r})\nsys.exit(1)\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert probe.failure_at(tmp_path / "engine.pt2", {}) == said
