"""Plans of TensorRT on the GPU of this machine: `python -m pytest -m tensorrt_gpu` builds, runs and compares them."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from wanbatch.engines import onnx_export, tensorrt, verify
from wanbatch.engines.building import graph_of, loaded
from wanbatch.engines.tensorrt_runtime import PlanEngine
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.weights import DTYPES

FOUND = [name for name, modules in tensorrt.MODULES.items() if any(map(importlib.util.find_spec, modules))]
UNFIT = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0) and FOUND == ["tensorrt-rtx"]

pytestmark = [
    pytest.mark.tensorrt_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not FOUND, reason="neither tensorrt-rtx nor tensorrt is installed"),
    pytest.mark.skipif(UNFIT, reason="TensorRT for RTX does not run on compute capability 9.0"),
]


@pytest.fixture(scope="module", params=["float32", "float16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def modules(dtype):
    return loaded(registry.find("tiny"), torch.device("cuda"), dtype, float8=False)


@pytest.mark.parametrize("backend", FOUND or ["tensorrt-rtx"])
@pytest.mark.parametrize("name", ["text", "dit", "vae-encode", "vae-decode"])
def test_a_plan_computes_what_the_module_does(name, backend, dtype, modules, tmp_path):
    rows, device = 4 if name == "dit" else 1, torch.device("cuda")
    graph = graph_of(modules, name, (128, 128), rows, device, DTYPES[dtype])
    onnx_export.export(graph, tmp_path / "part.onnx")
    said = tensorrt.build(tmp_path / "part.onnx", graph, tmp_path / "part.plan", ["native"], backend=backend)
    found = tensorrt.inspect(tmp_path / "part.plan", backend)
    assert set(found) == set(said["tensors"])
    assert {one: found[one]["profile"] for one in graph.open} == said["profile"]
    engine = PlanEngine(tmp_path / "part.plan", backend, tmp_path / "cache")
    errors = verify.compare(graph, engine)
    assert errors.relative <= verify.HALF_GATE, str(errors)  # TF32 may round on the GPU
    inputs = graph.example_of(length=48)
    first = engine(*inputs).clone()
    assert torch.equal(engine(*inputs), first)
    engine.keep()
    assert (tmp_path / "cache").exists() == (backend == tensorrt.RTX)
    again = PlanEngine(tmp_path / "part.plan", backend, tmp_path / "cache")
    assert torch.equal(again(*inputs), first)
    with pytest.raises((ValueError, RuntimeError)):
        engine(*(one[..., :-1] for one in inputs))
