"""Engines of `aot` on a GPU, in each way in which they can be built there; skipped without one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wanbatch.engines import aot, graphs, probe, verify
from wanbatch.engines.aot_forms import FormsHere, ways
from wanbatch.engines.graphs import Graph, OpenDimension
from wanbatch.pipeline.loading.random_model import random_vae
from wanbatch.pipeline.loading.single_frame import single_frame_vae

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MOST = 40


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Softmax(dim=-1)).cuda().requires_grad_(False)
    opened = {"values": {1: OpenDimension("length", 4, MOST)}}
    return Graph("text", module, {"values": torch.randn(2, 6, 8, device="cuda")}, "out", rows=2, open=opened)


@pytest.mark.parametrize("way", list(ways("cuda")), ids=lambda way: way.name.replace("/", "_"))
def test_an_engine_that_runs_computes_what_its_module_does(graph, way, tmp_path):
    path = tmp_path / f"engine{way.suffix}"
    aot.build(graph, path, way.compiler)
    if (failure := probe.failure_at(path, probe.description_of(graph))) is not None:
        assert way.suffix == ".pt2", failure
        pytest.skip(f"packages do not run here: {failure}")
    engine = aot.load(path, graph.module)
    assert verify.compare(graph, engine, lengths=(4, 6, MOST)).relative < 1e-5
    with torch.inference_mode():
        values = torch.randn(2, 9, 8, device="cuda")
        assert torch.equal(engine(values)[[1, 0]], engine(values[[1, 0]]))
        with pytest.raises(RuntimeError):
            engine(values[:1])


def test_calls_take_no_more_memory_from_the_gpu_and_outputs_may_be_kept(graph, tmp_path):
    """PyTorch's allocator gives a call what an earlier one's output had, if nobody has kept that."""
    engine = aot.load(FormsHere().build(graph, tmp_path, "engine", probe.description_of(graph)), graph.module)
    with torch.inference_mode():
        given = [torch.randn(2, MOST, 8, device="cuda") for _ in range(8)]
        kept = [engine(values) for values in given]
        assert all(torch.equal(engine(values), found) for values, found in zip(given, kept, strict=True))
        assert len({found.data_ptr() for found in kept}) == len(given)
        before, reserved = torch.cuda.memory_stats(), torch.cuda.memory_reserved()
        places = {engine(given[index % len(given)]).data_ptr() for index in range(1000)}
        after = torch.cuda.memory_stats()
    assert after["segment.all.allocated"] == before["segment.all.allocated"], "no memory was asked of the driver"
    assert after["allocation.all.allocated"] - before["allocation.all.allocated"] >= 1000
    assert torch.cuda.memory_reserved() == reserved
    assert len(places) < 10


@pytest.mark.parametrize("index", [0, 1], ids=["encode", "decode"])
@pytest.mark.parametrize("way", list(ways("cuda")), ids=lambda way: way.name.replace("/", "_"))
def test_an_engine_of_a_vae_as_a_run_has_it_computes_what_that_does(way, index, tmp_path):
    """In bf16 and channels last, scores of the attention written out, which they are not in an engine."""
    device = torch.device("cuda")
    model = random_vae(device, torch.bfloat16, base_dim=32, decoder_base_dim=32, num_res_blocks=1)
    vae = single_frame_vae(model, device).write_scores()
    made = graphs.vae_graphs(vae, (128, 64), 16, model.config.z_dim, torch.bfloat16, device)[index]
    path = tmp_path / f"engine{way.suffix}"
    aot.build(made, path, way.compiler)
    if (failure := probe.failure_at(path, probe.description_of(made))) is not None:
        # of a compiler that puts the C++ library into packages, see docs/engines.md; anything else is wrong
        assert failure.startswith("its process ended by") or "bad_cast" in failure, failure
        pytest.skip(f"packages do not run here: {failure}")
    assert verify.compare(made, aot.load(path, made.module)).relative < verify.HALF_GATE


def test_there_is_a_way_that_runs_here(graph, tmp_path):
    path = FormsHere().build(graph, tmp_path, "engine", probe.description_of(graph))
    assert probe.failure_at(path, probe.description_of(graph)) is None
