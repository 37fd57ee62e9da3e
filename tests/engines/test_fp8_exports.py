"""The transformer in FP8 as ONNX, and what TensorRT for RTX says of it: eight bits, and a scale for each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_making import needs_rtx
from small_models import random_transformer
from torch import nn
from torch.nn import functional

from wanbatch.engines import building, graphs, onnx_export, tensorrt, verify, verifying
from wanbatch.engines.building import BuildRequest
from wanbatch.engines.graphs import Graph
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import EngineKey
from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.fp8 import Float8Linear

CPU = torch.device("cpu")
LARGE_LAYERS = 6  # of a block


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Graph, Path]:
    """One step of a transformer of one block, in FP8 and fp32, and its file."""
    transformer = FrameTransformer(random_transformer(num_layers=1)).fuse().to_float8()
    graph = graphs.step_graph(transformer, (64, 32), 16, 2, CPU)
    path = tmp_path_factory.mktemp("fp8") / "dit.onnx"
    onnx_export.export(graph, path)
    onnx_export.check(path)
    return graph, path


def layers(graph: Graph) -> list[Float8Linear]:
    return [one for one in graph.module.modules() if isinstance(one, Float8Linear)]


def test_onnx_runtime_computes_what_the_layers_in_fp8_do(exported):
    graph, path = exported
    errors = verify.compare(graph, verify.onnx_engine(path), lengths=(16, 130))
    assert errors.passed
    assert errors.gate == 1e-3


def test_a_file_has_the_numbers_of_eight_bits_and_a_scale_for_each_row(exported):
    graph, path = exported
    model = onnx.load(path)
    tensors = {one.name: one for one in model.graph.initializer}
    stored = [one for one in tensors.values() if one.data_type == onnx.TensorProto.FLOAT8E4M3FN]
    assert len(stored) == LARGE_LAYERS == len(layers(graph))
    assert sorted(one.raw_data for one in stored) == sorted(
        one.weight.view(torch.uint8).numpy().tobytes() for one in layers(graph)
    )
    of_weights = [one for one in model.graph.node if one.op_type == "DequantizeLinear" and one.input[0] in tensors]
    assert len(of_weights) == LARGE_LAYERS
    for node in of_weights:
        weight, scales = (tensors[name] for name in node.input[:2])
        assert list(scales.dims) == [weight.dims[0]]
    quantised = [one for one in model.graph.node if one.op_type == "QuantizeLinear"]
    assert len(quantised) == LARGE_LAYERS
    assert {float(numpy_helper.to_array(tensors[one.input[1]])) for one in quantised} == {1.0}, "known beforehand"


def test_layers_that_round_otherwise_do_not_pass(exported, monkeypatch):
    graph, path = exported
    engine = verify.onnx_engine(path)

    def with_one_scale(self: Float8Linear, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax().float() / 448
        return self.emulated((rows / scale).to(torch.float8_e4m3fn), scale, x.dtype).unflatten(0, x.shape[:-1])

    monkeypatch.setattr(Float8Linear, "forward", with_one_scale)
    assert not verify.compare(graph, engine).passed


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.linear(states) * 4
        return functional.scaled_dot_product_attention(states, states, states)


def test_a_file_in_bf16_computes_in_fp32_what_its_module_does(tmp_path):
    """Its constants lose nothing by bf16: the scale of attention is one that would."""
    torch.manual_seed(0)
    module = Attention().bfloat16().requires_grad_(False)
    graph = Graph("dit", module, {"states": torch.randn(1, 2, 8, 32).bfloat16()}, "y", 64, 32, 2)
    onnx_export.export(graph, tmp_path / "dit.onnx")
    key = EngineKey("dit", "weights", 64, 32, 2, "bfloat16", "onnx", "opset 20", "any")
    errors = verify.compare_onnx(graph, tmp_path / "dit.onnx", key)
    assert errors.relative < 1e-5
    assert errors.gate == verify.HALF_GATE
    assert {one.dtype for one in module.parameters()} == {torch.bfloat16}, "it is as it was"


@needs_rtx
def test_rtx_builds_it_for_cards_with_fp8_and_for_no_others(exported, tmp_path):
    graph, path = exported
    said = tensorrt.build(path, graph, tmp_path / "dit.plan", ["8.9", "12.0"])
    assert said["architectures"] == ["SM89", "SM120"]
    assert (tmp_path / "dit.plan").stat().st_size > 1e4
    with pytest.raises(UserError, match=r"tensorrt-rtx cannot build it: .*sm86.*fp8_e4m3"):
        tensorrt.build(path, graph, tmp_path / "none.plan", ["8.6", "8.9"])


@needs_rtx
@pytest.mark.parametrize("kind", ["cast", "blocked"])
def test_forms_that_rtx_does_not_take(kind, tmp_path):
    """Why inputs are divided by their scales: neither a cast to FP8 nor scales that the graph finds are taken."""
    node, tensor, types = onnx.helper.make_node, onnx.helper.make_tensor, onnx.TensorProto
    weight = tensor("w", types.FLOAT8E4M3FN, [16, 16], np.eye(16).flatten())
    ones = tensor("ones", types.FLOAT, [16], np.ones(16))
    nodes = [
        node("Abs", ["x"], ["size"]),
        node("ReduceMax", ["size", "last"], ["scale"], keepdims=1),
        *(
            [node("Cast", ["x"], ["q"], to=types.FLOAT8E4M3FN), node("Cast", ["q"], ["d"], to=1)]
            if kind == "cast"
            else [
                node("QuantizeLinear", ["x", "scale"], ["q"], axis=1, block_size=16, output_dtype=17),
                node("DequantizeLinear", ["q", "scale"], ["d"], axis=1, block_size=16),
            ]
        ),
        node("DequantizeLinear", ["w", "ones"], ["wide"], axis=1),
        node("MatMul", ["d", "wide"], ["y"]),
    ]
    last = tensor("last", types.INT64, [1], [1])
    values = [onnx.helper.make_tensor_value_info(name, types.FLOAT, [16, 16]) for name in ("x", "y")]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight, ones, last]),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "x.onnx")
    graph = Graph("dit", nn.Identity(), {"x": torch.zeros(16, 16)}, "y")
    said = {"cast": "Tensor q has datatype FP8 but is not produced by", "blocked": "is_constant"}
    with pytest.raises(UserError, match=rf"tensorrt-rtx cannot build it: .*{said[kind]}"):
        tensorrt.build(tmp_path / "x.onnx", graph, tmp_path / "x.plan", ["8.9"])


def test_architectures_without_fp8_are_named():
    tensorrt.require_float8(["8.9", "12.0"])
    with pytest.raises(UserError, match=r"architecture 8\.6 has no FP8, .* since 8\.9: leave it out"):
        tensorrt.require_float8(["8.6", "8.9"])


def test_a_store_has_them_under_a_dtype_of_their_own_and_verifies_them(tmp_path, monkeypatch):
    """In bf16 around FP8, as a GPU runs it; compared with fp32 in the place of bf16."""
    torch.manual_seed(0)
    layer = Float8Linear(torch.randn(32, 64).bfloat16(), torch.randn(32).bfloat16())
    graph = Graph("dit", layer, {"x": torch.randn(2, 3, 64).bfloat16()}, "y", 64, 32, 2)
    for module in (building, verifying):
        monkeypatch.setattr(module, "loaded", lambda *given: None)
        monkeypatch.setattr(module, "graph_of", lambda parts, component, size, rows, *more: replace(graph, rows=rows))
    model = registry.find("tiny")
    request = BuildRequest(model, ("dit",), ((64, 32),), 2, "onnx", ("native",), "cpu", "bfloat16", float8=True)
    store = Store.create(tmp_path / "store")
    assert [one.label for one in building.build(store, request)] == ["dit 64x32, 2 rows", "dit 64x32, 4 rows"]
    assert {one.key.dtype for one in store.engines()} == {"bfloat16+float8"}
    assert {one.key.version for one in store.engines()} == {"opset 21"}
    checks = list(verifying.verify_store(store, model))
    assert [one.verdict for one in checks] == ["right", "right"]
    assert all(f"(at most {verify.FLOAT8_GATE:g})" in one.words for one in checks)
    layer.scale.mul_(1.2)
    assert [one.verdict for one in verifying.verify_store(store, model)] == ["wrong", "wrong"]
    plain = replace(request, float8=False)
    assert {building.key_of(plain, "dit", (64, 32), 2).dtype} == {"bfloat16"}
    assert {building.key_of(request, "vae-decode", (64, 32), 1).dtype} == {"bfloat16"}
