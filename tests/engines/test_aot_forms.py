"""Which form of `aot` engines is taken, with compilers and another process that stand in; `test_aot.py` has both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wanbatch.engines import aot, aot_forms, probe
from wanbatch.engines.aot_forms import COMPILERS, FormsHere, ways
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError

GRAPH = Graph("vae-decode", nn.Identity(), {"latents": torch.zeros(1, 4)}, "images", width=64, height=32)
CRASH = "its process ended by SIGSEGV"


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch) -> None:
    """No example lies on one here."""
    monkeypatch.setattr(aot_forms, "device_of", lambda graph: "cuda")


@pytest.fixture(autouse=True)
def compilers(monkeypatch, tmp_path_factory) -> Path:
    """A folder with one C++ compiler, which is the only one."""
    folder = tmp_path_factory.mktemp("compilers")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    add_compiler(folder / "g++")
    return folder


def add_compiler(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """Suffixes of the engines that were built, with the compiler that was given."""
    suffixes = []

    def build(graph, path, compiler=None):
        suffixes.append(f"{path.suffix} {compiler}" if compiler else path.suffix)
        path.write_bytes(b"engine")

    monkeypatch.setattr(aot, "build", build)
    return suffixes


def crashing(monkeypatch, *suffixes: str) -> None:
    monkeypatch.setattr(probe, "failure_at", lambda path, _: CRASH if path.suffix in suffixes else None)


def test_a_package_that_runs_is_taken(built, monkeypatch, tmp_path):
    crashing(monkeypatch)
    assert FormsHere().build(GRAPH, tmp_path, "engine", {}).name == "engine.pt2"
    assert built == [".pt2"]


def test_an_artifact_is_taken_where_packages_crash_and_these_are_tried_once(built, monkeypatch, tmp_path):
    crashing(monkeypatch, ".pt2")
    forms = FormsHere()
    assert forms.build(GRAPH, tmp_path, "first", {}).name == "first.artifact"
    assert forms.build(GRAPH, tmp_path, "second", {}).name == "second.artifact"
    assert built == [".pt2", ".artifact", ".artifact"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.artifact", "second.artifact"]
    assert str(forms) == f"package by g++: {CRASH}"


def test_a_package_of_another_compiler_is_taken_where_that_of_the_variable_crashes(
    built, monkeypatch, tmp_path, compilers
):
    own, other = tmp_path / "own-g++", compilers / "g++"
    add_compiler(own)
    monkeypatch.setenv("CXX", str(own))
    monkeypatch.setattr(probe, "failure_at", lambda path, _: CRASH if len(built) == 1 else None)
    forms = FormsHere()
    assert forms.build(GRAPH, tmp_path, "first", {}).name == "first.pt2"
    assert forms.build(GRAPH, tmp_path, "second", {}).name == "second.pt2"
    assert built == [".pt2", f".pt2 {other}", f".pt2 {other}"]
    assert str(forms) == f"package by {own}: {CRASH}"


def test_the_same_compiler_by_two_names_is_tried_once(compilers):
    (compilers / COMPILERS[1]).symlink_to(compilers / "g++")
    assert [way.name for way in ways("cuda")] == ["package by g++", "artifact"]


def test_a_cpu_has_packages_only_since_artifacts_for_it_are_compiled_when_they_are_loaded(
    built, monkeypatch, tmp_path
):
    assert [way.name for way in ways("cpu")] == ["package by g++"]
    monkeypatch.setattr(aot_forms, "device_of", lambda graph: "cpu")
    crashing(monkeypatch, ".pt2")
    with pytest.raises(UserError, match="does not run here"):
        FormsHere().build(GRAPH, tmp_path, "engine", {})
    assert built == [".pt2"]


def test_a_package_that_cannot_be_compiled_leaves_the_artifact(monkeypatch, tmp_path):
    def build(graph, path, compiler=None):
        if path.suffix == ".pt2":
            raise UserError("vae-decode 64x32: PyTorch cannot compile it ahead of time (no C++ compiler)")
        path.write_bytes(b"engine")

    monkeypatch.setattr(aot, "build", build)
    crashing(monkeypatch)
    assert FormsHere().build(GRAPH, tmp_path, "engine", {}).name == "engine.artifact"
    crashing(monkeypatch, ".artifact")
    with pytest.raises(UserError, match=rf"\(no C\+\+ compiler\); artifact: {CRASH}"):
        FormsHere().build(GRAPH, tmp_path, "engine", {})


def test_a_machine_on_which_no_form_runs_is_told_so(built, monkeypatch, tmp_path):
    crashing(monkeypatch, ".pt2", ".artifact")
    words = rf"does not run here \(package by g\+\+: {CRASH}; artifact: {CRASH}\): run without --engines"
    with pytest.raises(UserError, match=f"vae-decode 64x32: .* {words}"):
        FormsHere().build(GRAPH, tmp_path, "engine", {})


def test_what_is_neither_is_taken_for_a_package():
    assert [aot.form_of(f"engine{suffix}") for suffix in (".pt2", ".artifact", "")] == [
        "package",
        "artifact",
        "package",
    ]
