"""AOTInductor in earnest, on a graph that compiles in seconds; a slow test builds a small model and runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_models import save_random_pipeline
from torch import nn

from wanbatch.engines import aot, probe, verify
from wanbatch.engines.aot_forms import FormsHere
from wanbatch.engines.graphs import Graph, OpenDimension
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import EngineKey, StoredEngine
from wanbatch.errors import UserError

pytestmark = pytest.mark.slow  # a minute of compiling
KEY = EngineKey("text", "weights", 0, 0, 2, "float32", "aot", "torch", "cpu")
MOST = 40


class Rows(nn.Module):
    """A matrix product, a softmax, and a tensor that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("scale", torch.linspace(1.0, 2.0, 8), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(values) * self.scale, dim=-1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    opened = {"values": {1: OpenDimension("length", 4, MOST)}}
    return Graph("text", Rows().requires_grad_(False), {"values": torch.randn(2, 6, 8)}, "out", rows=2, open=opened)


@pytest.fixture(scope="module", params=aot.FORMS)
def store(request, graph, tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("engines")
    store = Store.create(folder / "store")
    path = store.new_build() / f"{KEY.name}{aot.FORMS[request.param].SUFFIX}"
    aot.build(graph, path)
    store.add(KEY, [path], graph.shapes(), {"probe": probe.description_of(graph)})
    return store


def path_in(store: Store) -> Path:
    (engine,) = store.engines()
    assert isinstance(engine, StoredEngine)
    return store.path_of(engine)


def test_an_engine_computes_what_its_module_does_at_every_length(graph, store):
    engine = aot.load(path_in(store), graph.module)
    assert verify.compare(graph, engine, lengths=(4, 6, MOST)).relative < 1e-6
    values = torch.randn(2, 9, 8)
    assert torch.equal(engine(values)[[1, 0]], engine(values[[1, 0]]))  # a row knows nothing of its neighbour


def test_an_engine_runs_on_the_weights_of_the_module(graph, store):
    engine = aot.load(path_in(store), graph.module)
    values = torch.randn(2, 5, 8)
    before = engine(values)
    graph.module.linear.weight.mul_(0.5)  # the compiler writes tensors of at most eight numbers into the code
    try:
        assert not torch.equal(engine(values), before)
        torch.testing.assert_close(engine(values), graph.module(values))
    finally:
        graph.module.linear.weight.mul_(2)
    assert path_in(store).stat().st_size < 4e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_callers_may_keep_what_an_engine_gives_and_its_memory_is_used_again(graph, store):
    """Latents of sources are kept while other sources are encoded, so no call may write an earlier one's output."""
    engine = aot.load(path_in(store), graph.module)
    given = [torch.randn(2, MOST, 8) for _ in range(8)]
    kept = [engine(values) for values in given]
    assert all(torch.equal(engine(values), found) for values, found in zip(given, kept, strict=True))
    assert len({found.data_ptr() for found in kept}) == len(given)
    del kept
    calls, bytes_of_each = 20_000, given[0].nbytes
    for _ in range(100):
        engine(given[0])
    before = resident_bytes()
    for index in range(calls):
        engine(given[index % len(given)])
    assert resident_bytes() - before < calls * bytes_of_each / 5


@pytest.mark.parametrize(
    "given",
    [
        torch.zeros(3, 6, 8),
        torch.zeros(2, 6, 9),
        torch.zeros(2, MOST + 1, 8),
        torch.zeros(2, 6, 8, dtype=torch.float64),
        torch.zeros(2, 8, 6).transpose(1, 2),
    ],
    ids=["rows", "width", "length", "dtype", "strides"],
)
def test_inputs_that_an_engine_was_not_built_for_are_refused(graph, store, given):
    engine = aot.load(path_in(store), graph.module)
    with pytest.raises(RuntimeError, match=r"input_handles|values: the engine was built for float32 \[2, 6, 8\]"):
        engine(given)


def test_a_model_of_another_form_is_refused(store):
    with pytest.raises(UserError, match="is of a model of another form"):
        aot.load(path_in(store), nn.Linear(8, 8))


def test_what_does_not_run_here_ends_another_process_and_is_named(graph, store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (engine,) = store.engines()
    assert probe.failure_of(store, [engine]) is None
    broken = Store.create(tmp_path / "store")
    path = broken.new_build() / path_in(store).name
    path.write_bytes(path_in(store).read_bytes()[:-2000])
    other = broken.add(KEY, [path], {}, engine.notes)
    failure = probe.failure_of(broken, [other])
    assert failure is not None
    assert failure.startswith("the engine of text does not run: ")
    with pytest.raises(UserError, match="cannot be loaded"):
        aot.load(broken.path_of(other), graph.module)


def test_a_graph_that_cannot_be_compiled_is_named(tmp_path):
    class Branching(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values if values.sum() > 0 else -values

    graph = Graph("vae-decode", Branching(), {"values": torch.ones(3)}, "out", width=64, height=32)
    with pytest.raises(UserError, match="vae-decode 64x32: PyTorch cannot compile it ahead of time"):
        aot.build(graph, tmp_path / "engine.pt2")


def test_a_compiler_whose_packages_crash_is_passed_over(graph, monkeypatch, tmp_path):
    """One that puts the C++ library into each package: its locales and those of PyTorch's own do not go together."""
    compiler = tmp_path / "own" / "g++"
    compiler.parent.mkdir()
    plain = shutil.which("g++")
    static = f'case " $* " in *" -shared "*) exec {plain} "$@" -static-libstdc++;; *) exec {plain} "$@";; esac'
    compiler.write_text(f"#!/bin/sh\n{static}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    forms = FormsHere()
    with torch._inductor.config.patch({"cpp.cxx": (None, str(compiler))}):  # read from CXX when it is imported
        path = forms.build(graph, tmp_path, "engine", probe.description_of(graph))
    assert path.name == "engine.pt2"
    assert verify.compare(graph, aot.load(path, graph.module), lengths=(4, 6, MOST)).relative < 1e-6
    assert str(forms).startswith(f"package by {compiler}: ")  # SIGSEGV or std::bad_cast, as it happens


ROWS = [
    {"id": "a", "prompt": "a big red heart"},
    {"id": "b", "prompt": "the small blue star", "steps": 4, "seed": 3},
    {"id": "c", "prompt": "a green circle", "guidance": 1, "seed": 4},
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_with_engines_makes_the_pictures_of_a_run_without(tmp_path):
    model, store = save_random_pipeline(tmp_path / "model"), tmp_path / "store"
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def wanbatch(*given: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wanbatch.jobs.cli", *map(str, given), "--model", str(model)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    fixed = ("--slots", 2, "--device", "cpu")
    built = wanbatch("engines", "build", "--store", store, "--size", "64x64", *fixed)
    assert built.returncode == 0, built.stderr
    assert built.stdout.count(": built in") == 5
    again = wanbatch("engines", "build", "--store", store, "--size", "64x64", *fixed)
    assert again.stdout.count("there already") == 5
    plain = wanbatch("run", manifest, "--out", tmp_path / "plain", *fixed)
    assert plain.returncode == 0, plain.stderr
    with_engines = wanbatch("run", manifest, "--out", tmp_path / "engines", *fixed, "--engines", store)
    assert with_engines.returncode == 0, with_engines.stderr
    for name in pictures(tmp_path / "plain"):
        difference = pictures(tmp_path / "plain")[name].astype(int) - pictures(tmp_path / "engines")[name]
        assert np.abs(difference).max() <= 1, name
    timings = pq.read_table(tmp_path / "engines" / "timings").to_pylist()
    assert {row["backends"]["denoise"] for row in timings} == {"aot-float32"}
    assert {row["backends"]["decode"] for row in timings} == {"aot-float32"}
    other = wanbatch("run", manifest, "--out", tmp_path / "engines", *fixed)
    assert other.returncode == 2
    assert "engines" in other.stderr


def pictures(out: Path) -> dict[str, np.ndarray]:
    from io import BytesIO

    from PIL import Image

    rows = pq.read_table(out / "data", columns=["id", "image"]).to_pylist()
    return {row["id"]: np.asarray(Image.open(BytesIO(row["image"]["bytes"]))) for row in rows}
