"""The small model's parts in float16: ONNX Runtime's numbers, plans for Turing, and what float16 cannot hold."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
from onnx_making import PARTS, exports_of, needs_rtx
from small_models import save_random_pipeline
from torch import nn

from wanbatch.engines import building, float16, onnx_export, selection, tensorrt, verify, verifying
from wanbatch.engines.building import BuildRequest
from wanbatch.engines.graphs import Graph, text_graph
from wanbatch.engines.selection import EngineNeeds
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import EngineKey
from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.models.umt5 import PlainUMT5
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder

HALVES = [  # the others are exported in test_exports.py, and the text encoder in float16 below
    pytest.param(part, marks=pytest.mark.slow if part in ("text", "vae-decode") else ()) for part in PARTS
]
CPU = torch.device("cpu")
KINDS = onnx.TensorProto


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> registry.ModelInfo:
    return registry.find(str(save_random_pipeline(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Each part's graph and its file, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("onnx")
    modules = building.loaded(model, CPU, "float16", False)
    modules.transformer.blocks = modules.transformer.blocks[:1]  # the others are the same

    return exports_of(modules, folder, torch.float16)


def key_of(name: str) -> EngineKey:
    return EngineKey(name, "weights", 64, 32, 2, "float16", "onnx", "opset 20", "any")


@pytest.mark.parametrize("name", HALVES)
def test_a_file_has_weights_in_float16_and_is_called_in_fp32(name, exported):
    graph, path = exported(name)
    onnx_export.check(path)
    model = onnx.load(path)
    whole = {KINDS.INT64} if name == "text" else {KINDS.FLOAT}
    assert {one.type.tensor_type.elem_type for one in model.graph.input} == whole
    assert [one.type.tensor_type.elem_type for one in model.graph.output] == [KINDS.FLOAT]
    assert {graph.module(*graph.inputs.values()).dtype} == {torch.float32}
    sizes = {kind: 0 for kind in (KINDS.FLOAT, KINDS.FLOAT16)}
    for one in model.graph.initializer:
        if one.data_type in sizes and len(one.dims) > 1:
            sizes[one.data_type] += onnx.numpy_helper.to_array(one).size
    assert sizes[KINDS.FLOAT16] > 3 * sizes[KINDS.FLOAT], "the transformer's embedding of noise levels is in fp32"
    assert KINDS.BFLOAT16 not in {one.data_type for one in model.graph.initializer}


@pytest.mark.parametrize("name", HALVES)
def test_onnx_runtime_computes_what_the_module_does(name, exported):
    graph, path = exported(name)
    errors = verify.compare_onnx(graph, path, key_of(name))
    assert errors.passed
    assert errors.gate == verify.HALF_GATE
    assert errors.relative < 5e-3
    assert verify.compare_float16(graph).relative < 5e-3
    exact = verify.widened(graph)
    assert verify.compare(exact, verify.onnx_engine(path)).relative < 5e-3


@needs_rtx
@pytest.mark.parametrize("name", HALVES)
def test_rtx_builds_it_for_cards_without_bf16(name, exported, tmp_path):
    graph, path = exported(name)
    said = tensorrt.build(path, graph, tmp_path / "part.plan", ["7.5", "8.9"])
    assert said["architectures"] == ["SM75", "SM89"]
    assert {one[1] for one in said["tensors"].values()} <= {"FLOAT", "INT64"}
    assert (tmp_path / "part.plan").stat().st_size > 1e4


@needs_rtx
@pytest.mark.parametrize(
    ("dtype", "precision", "said"),
    [(torch.bfloat16, "bf16", "sm75.*b16"), (torch.float32, "fp32", "SM75.*FP32 GEMM is not supported")],
)
def test_rtx_refuses_others_for_turing_and_so_do_we_before(dtype, precision, said, tmp_path, monkeypatch):
    module = nn.Linear(16, 16).to(dtype).requires_grad_(False)
    graph = Graph("dit", module, {"x": torch.randn(4, 16).to(dtype)}, "y")
    onnx_export.export(graph, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=said):
        tensorrt.build(tmp_path / "x.onnx", graph, tmp_path / "x.plan", ["7.5"])
    dtype_name = str(dtype).removeprefix("torch.")
    request = BuildRequest(
        registry.find(), ("vae",), ((64, 64),), 2, "tensorrt-rtx", ("7.5", "8.9"), "cpu", dtype_name
    )
    alone = rf"--precision {precision}: .* architecture 7\.5 in fp16 alone: use --precision fp16"
    with pytest.raises(UserError, match=rf"{alone}, or leave 7\.5 out of --arch$"):
        building.check(request)
    building.check(replace(request, dtype="float16"))
    building.check(replace(request, architectures=("8.9",)))
    monkeypatch.setattr(tensorrt, "_has_gpu", lambda: True)
    monkeypatch.setattr(tensorrt, "_capability", lambda: "7.5")
    for lone in ("7.5", "native"):  # without it there is nothing to build for
        with pytest.raises(UserError, match=f"{alone}$"):
            building.check(replace(request, architectures=(lone,)))
    with pytest.raises(UserError, match=rf"{alone}, or leave native out of --arch$"):
        building.check(replace(request, architectures=("native", "8.9")))


@pytest.fixture
def loud_encoder() -> UMT5Encoder:
    """An encoder in float16 whose feed-forward gives millions, which that of UMT5-XXL may, too."""
    config = {"vocab_size": 80, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    torch.manual_seed(0)
    encoder = UMT5Encoder(config).requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        factor = 80 if "wi_" in name else 20 if "wo" in name else 1
        nn.init.normal_(parameter, mean=1.0 if "layer_norm" in name else 0.0, std=0.2 * factor)
    return encoder.eval().half()


def in_float16(encoder: UMT5Encoder) -> Graph:
    return float16.called_in_float32(text_graph(PlainUMT5(encoder), 1, CPU))


def test_what_float16_cannot_hold_is_not_kept_or_is_computed_all_the_same(loud_encoder, tmp_path, monkeypatch):
    """An encoder as it would be without what is done about it is refused; with that it is built, and right."""
    monkeypatch.setattr(building, "loaded", lambda *given: None)
    monkeypatch.setattr(building, "graph_of", lambda *given: in_float16(loud_encoder))
    request = BuildRequest(registry.find(), ("text",), (), 2, "onnx", ("native",), "cpu", "float16")
    store, plain = Store.create(tmp_path / "store"), in_float16(loud_encoder)
    assert not verify.compare_float16(plain).passed
    wanted = verify.widened(plain)
    with pytest.raises(UserError, match=r"text: some of its numbers are larger than float16 holds .*: use"):
        list(building.build(store, request))
    assert store.engines() == []
    float16.keep_large_sums(loud_encoder)
    layer = loud_encoder.encoder.block[0].layer[1].DenseReluDense
    assert layer(torch.ones(1, 32).half()).abs().max() > float16.LARGEST
    assert verify.compare_float16(in_float16(loud_encoder)).relative < 1e-2
    assert [one.what for one in building.build(store, request)] == ["built"]
    [path] = (tmp_path / "store").rglob("*.onnx")
    assert verify.compare(wanted, verify.onnx_engine(path)).relative < 1e-2


@needs_rtx
@pytest.mark.parametrize(
    ("given", "said", "better"),
    [
        (
            {"architectures": ("7.5", "8.9")},
            "for 7.5 there is no other precision: leave 7.5 out of --arch, and use --precision bf16",
            {"architectures": ("8.9",), "dtype": "bfloat16"},
        ),
        (
            {"architectures": ("7.5",), "components": ("text", "vae"), "sizes": ((64, 32),)},
            "for 7.5 there is no other precision: leave text out of --component",
            {"architectures": ("7.5",), "components": ("vae",)},
        ),
        (
            {"architectures": ("7.5",)},
            "for 7.5 there is no other precision: give other architectures to --arch, and --precision bf16",
            {"architectures": ("8.6",), "dtype": "bfloat16"},
        ),
        ({"architectures": ("8.9",)}, "use --precision bf16", {"architectures": ("8.9",), "dtype": "bfloat16"}),
        ({"backend": "onnx"}, "use --precision bf16", {"backend": "onnx", "dtype": "bfloat16"}),
    ],
)
def test_what_float16_cannot_hold_has_a_remedy_that_is_taken(
    given, said, better, loud_encoder, model, tmp_path, monkeypatch
):
    """Also with an architecture whose plans are in float16 alone, which the other message sends here."""
    monkeypatch.setattr(building, "loaded", lambda *given: None)
    monkeypatch.setattr(building, "graph_of", lambda *given: in_float16(loud_encoder))
    request = replace(BuildRequest(model, ("text",), (), 2, "tensorrt-rtx", ("7.5",), "cpu", "float16"), **given)
    with pytest.raises(UserError) as refused:
        list(building.build(Store.create(tmp_path / "store"), request))
    assert str(refused.value).endswith(f": {said}")
    building.check(replace(request, **better))


def test_tensorrt_on_turing_has_fp32_instead(monkeypatch, model):
    monkeypatch.setattr(tensorrt, "_capability", lambda: "7.5")
    assert tensorrt.in_float16_alone("tensorrt", ("native",), "bf16") == ["native"]
    assert tensorrt.in_float16_alone("tensorrt", ("native",), "fp32") == []
    request = BuildRequest(model, ("text",), (), 2, "tensorrt", ("native",), "cuda", "float16")
    assert building._instead_of_float16(request, "text") == "use --precision fp32"


def test_an_error_that_is_no_number_is_not_forgotten_at_the_next_length(loud_encoder):
    graph = in_float16(loud_encoder)
    float16.keep_large_sums(loud_encoder)

    def engine(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return graph.module(tokens, mask) * (float("nan") if tokens.shape[1] == 16 else 1.0)

    assert not verify.compare(graph, engine, lengths=(16, 48)).passed
    assert verify.compare(graph, engine, lengths=(48,)).passed


class HalfLayer(nn.Module):
    """A layer in float16 that is called in float32, as the parts of a model are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16).half().requires_grad_(False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.linear(values.to(self.linear.weight.dtype)).float()


def test_a_store_has_them_under_a_dtype_of_their_own_and_no_run_takes_them(model, tmp_path, monkeypatch):
    """A layer stands for each part of the VAE, whose own exports are above."""
    torch.manual_seed(0)
    graph = Graph("vae-encode", HalfLayer(), {"values": torch.randn(2, 16)}, "y", 64, 32)
    for module in (building, verifying):
        monkeypatch.setattr(module, "loaded", lambda *given: None)
        monkeypatch.setattr(module, "graph_of", lambda parts, name, *more: replace(graph, component=name))
    request = BuildRequest(model, ("vae",), ((64, 32),), 2, "onnx", ("native",), "cpu", "float16")
    store = Store.create(tmp_path / "store")
    assert [one.what for one in building.build(store, request)] == ["built", "built"]
    assert [one.what for one in building.build(store, request)] == ["there already"] * 2
    assert {one.key.dtype for one in store.engines()} == {"float16"}
    assert all(f"(at most {verify.HALF_GATE:g})" in one.notes["errors"] for one in store.engines())
    assert [one.verdict for one in verifying.verify_store(store, model)] == ["right", "right"]
    for dtype in ("bfloat16", "float32"):
        needs = EngineNeeds(model.digest, dtype, 2, torch.__version__, "cpu-x86_64-AVX2")
        assert selection.select(store, needs) == []
    assert "vae-decode 64x32 in float16 for any (onnx" in selection.there_instead(store)
