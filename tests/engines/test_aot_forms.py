"""Which form of `aot` engines is taken, with compilers and another process that stand in; `test_aot.py` has both."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wanbatch.engines import aot, probe
from wanbatch.engines.aot_forms import FormsHere
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError

GRAPH = Graph("vae-decode", nn.Identity(), {"latents": torch.zeros(1, 4)}, "images", width=64, height=32)
CRASH = "its process ended by SIGSEGV"


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """Suffixes of the engines that were built, none of which runs if it is in `crashing`."""
    suffixes = []

    def build(graph, path):
        suffixes.append(path.suffix)
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
    assert str(forms) == f"package: {CRASH}"


def test_a_package_that_cannot_be_compiled_leaves_the_artifact(monkeypatch, tmp_path):
    def build(graph, path):
        if path.suffix == ".pt2":
            raise UserError("vae-decode 64x32: PyTorch cannot compile it ahead of time (no C++ compiler)")
        path.write_bytes(b"engine")

    monkeypatch.setattr(aot, "build", build)
    crashing(monkeypatch)
    assert FormsHere().build(GRAPH, tmp_path, "engine", {}).name == "engine.artifact"
    crashing(monkeypatch, ".artifact")
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        FormsHere().build(GRAPH, tmp_path, "engine", {})


def test_a_machine_on_which_no_form_runs_is_told_so(built, monkeypatch, tmp_path):
    crashing(monkeypatch, ".pt2", ".artifact")
    words = rf"vae-decode 64x32: .* does not run here \(package: {CRASH}; artifact: {CRASH}\): run without --engines"
    with pytest.raises(UserError, match=words):
        FormsHere().build(GRAPH, tmp_path, "engine", {})


def test_what_is_neither_is_taken_for_a_package():
    assert [aot.form_of(f"engine{suffix}") for suffix in (".pt2", ".artifact", "")] == [
        "package",
        "artifact",
        "package",
    ]
