"""The small model's parts as ONNX files and as plans of TensorRT for RTX: numerics, and what the libraries say."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from onnx_making import PARTS, exports_of, needs_rtx
from small_models import save_random_pipeline
from torch import nn

from wanbatch.engines import building, onnx_export, tensorrt, verify, verifying
from wanbatch.engines.building import BuildRequest
from wanbatch.engines.graphs import Graph
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import EngineKey, StoredEngine
from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry, weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["random", pytest.param("tiny", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """Each part's graph and its file, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("onnx")
    name = "tiny" if request.param == "tiny" else str(save_random_pipeline(folder / "model"))
    modules = weights.load(registry.find(name), CPU, torch.float32)
    if request.param == "random":
        modules.transformer.blocks = modules.transformer.blocks[:1]  # the others are the same
        modules.text_encoder.encoder.block = modules.text_encoder.encoder.block[:1]

    return exports_of(modules, folder, torch.float32)


@pytest.mark.parametrize("name", PARTS)
def test_onnx_runtime_computes_what_the_module_does(name, exported):
    graph, path = exported(name)
    onnx_export.check(path)
    names = [one.name for one in onnx.load(path, load_external_data=False).graph.input]
    assert names == list(graph.inputs)
    assert onnx_export.files_of(path)[1].stat().st_size > 1e4
    errors = verify.compare(graph, verify.onnx_engine(path), lengths=(16, 130))
    assert errors.passed
    assert errors.gate == 1e-3


def test_another_module_does_not_pass(exported):
    graph, path = exported("vae-encode")
    engine = verify.onnx_engine(path)
    assert not verify.compare(graph, lambda images: engine(images) * 1.01).passed
    assert not verify.compare(graph, lambda images: engine(images) * float("nan")).passed


@needs_rtx
@pytest.mark.parametrize("name", PARTS)
def test_rtx_builds_a_plan_for_two_architectures_without_a_gpu(name, exported, tmp_path):
    graph, path = exported(name)
    plan, seen = tmp_path / "part.plan", []
    said = tensorrt.build(path, graph, plan, ["8.9", "12.0"], report=lambda phase, share: seen.append(share))
    assert said["architectures"] == ["SM89", "SM120"]
    assert set(said["tensors"]) == {*graph.inputs, graph.output}
    for tensor, (shape, dtype) in said["tensors"].items():
        example = graph.inputs.get(tensor)
        if example is not None:
            opened = graph.open.get(tensor, {})
            assert shape == [-1 if index in opened else size for index, size in enumerate(example.shape)]
            assert dtype == ("INT64" if name == "text" else "FLOAT")
    assert set(said["profile"]) == set(graph.open)
    for tensor, shapes in said["profile"].items():
        for index, one in graph.open[tensor].items():
            assert [shape[index] for shape in shapes] == [one.least, tensorrt.USUAL_LENGTH, one.most]
    assert plan.stat().st_size > 1e4
    assert max(seen) == 1.0
    assert not tensorrt.is_damaged(plan)
    plan.write_bytes(b"x" * 4096)
    assert tensorrt.is_damaged(plan)


def test_files_in_a_store_find_their_weights(tmp_path, monkeypatch):
    graph = Graph("text", nn.Linear(64, 64).requires_grad_(False), {"values": torch.randn(1, 64)}, "sums")
    monkeypatch.setattr(building, "loaded", lambda *given: None)
    monkeypatch.setattr(building, "graph_of", lambda *given: graph)
    monkeypatch.setattr(verifying, "loaded", lambda *given: None)
    monkeypatch.setattr(verifying, "graph_of", lambda *given: graph)
    model = registry.find("tiny")
    request = BuildRequest(model, ("text",), (), 2, "onnx", ("native",), "cpu", "float32")
    store = Store.create(tmp_path / "store")
    assert [one.what for one in building.build(store, request)] == ["built"]
    assert [len(one.files) for one in store.engines()] == [2]
    assert [one.verdict for one in verifying.verify_store(store, model)] == ["right"]


class Complex(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(values)


@needs_rtx
def test_an_operator_that_is_not_supported_is_named(tmp_path):
    graph = Graph("vae-decode", Complex(), {"values": torch.eye(4)[None]}, "det")
    onnx_export.export(graph, tmp_path / "det.onnx")
    with pytest.raises(UserError, match=r"vae-decode: tensorrt-rtx does not take its graph: .*Det"):
        tensorrt.build(tmp_path / "det.onnx", graph, tmp_path / "det.plan", ["8.9"])


@needs_rtx
def test_architectures_that_there_are_no_plans_for():
    tensorrt.require("tensorrt-rtx", ["8.9", "12.0"])
    with pytest.raises(UserError, match=r"--arch 9\.0: .*builds for 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1"):
        tensorrt.require("tensorrt-rtx", ["8.9", "9.0"])
    with pytest.raises(UserError, match="no GPU here"):
        tensorrt.require("tensorrt-rtx", ["8.9", "native"])


@needs_rtx
def test_native_is_the_gpu_of_this_machine_beside_others(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    tensorrt.require("tensorrt-rtx", ["8.9", "12.0", "native"])
    assert tensorrt.named(["8.9", "12.0", "native"]) == ("8.9", "12.0")
    assert tensorrt.named(["native", "8.6"]) == ("12.0", "8.6")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(UserError, match=r"--arch 9\.0: .*builds for 7\.5"):
        tensorrt.require("tensorrt-rtx", ["native"])


def test_plans_are_run_on_the_gpus_that_they_are_for(monkeypatch):
    """`native` is what earlier versions wrote for the GPU of the machine that built them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    model = registry.find()

    def why_not(architecture: str) -> str | None:
        key = EngineKey("vae-decode", model.digest, 64, 64, 1, "float32", "tensorrt-rtx", "1.7", architecture)
        return verifying._why_not(StoredEngine(key, {}), model)

    assert [why_not(each) for each in ("8.9,12.0", "12.0", "native")] == [None] * 3
    assert why_not("8.9,2.0") == "is for 8.9,2.0, and this GPU is 12.0"


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(tensorrt, "MODULES", {name: ("no_such_module",) for name in tensorrt.MODULES})
    with pytest.raises(UserError, match=r"not installed: install wanbatch\[tensorrt-rtx\]"):
        tensorrt.require("tensorrt-rtx", ["8.9"])
    with pytest.raises(UserError, match="install the package tensorrt of NVIDIA"):
        tensorrt.require("tensorrt", ["native"])


def test_a_module_that_cannot_be_exported_is_named(tmp_path):
    class Branching(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values if values.sum() > 0 else -values

    graph = replace(Graph("vae-decode", Branching(), {"values": torch.ones(3)}, "out"), width=64, height=32)
    with pytest.raises(UserError, match="vae-decode 64x32: PyTorch cannot export it to ONNX"):
        onnx_export.export(graph, tmp_path / "out.onnx")
