"""Engines of a small VAE whose weights and attention are as on a GPU: channels last, and scores written out."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wanbatch.engines import aot, graphs, probe, verify
from wanbatch.engines.exporting import export
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError
from wanbatch.pipeline.loading.random_model import random_vae
from wanbatch.pipeline.loading.single_frame import single_frame_vae
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.models.vae_blocks import AttentionBlock

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae() -> FrameVAE:
    torch.manual_seed(0)
    model = random_vae(CPU, torch.float32, base_dim=8, decoder_base_dim=8, num_res_blocks=1)
    return single_frame_vae(model, CPU).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def both(vae) -> Sequence[Graph]:
    """Both directions; their VAE writes scores, as one of which a run on a GPU has made its kernels."""
    written = copy.deepcopy(vae).write_scores()
    made = graphs.vae_graphs(written, (32, 32), 16, vae.config.z_dim, torch.float32, CPU)
    return [
        replace(
            graph,
            inputs={name: graphs.laid_out(one, torch.channels_last) for name, one in graph.inputs.items()},
        )
        for graph in made
    ]


def plain(graph: Graph, vae: FrameVAE) -> Graph:
    """The same graph of a VAE whose attention a CPU computes: its products have no float32 results of bf16."""
    return replace(graph, module=type(graph.module)(vae))


def operators(module: torch.fx.GraphModule) -> set[str]:
    return {str(node.target) for node in module.graph.nodes if node.op == "call_function"}


def test_no_graph_of_a_vae_has_the_product_that_aotinductor_has_no_function_for(both):
    for graph in both:
        assert any(one.writes_scores for one in graph.module.modules() if isinstance(one, AttentionBlock))
        found = operators(export(graph).graph_module)
        assert not [name for name in found if "bmm" in name]
        assert "aten.scaled_dot_product_attention.default" in found


def test_what_is_compiled_when_a_run_starts_still_writes_scores():
    seen = set()

    def backend(module, inputs):
        seen.update(operators(module))
        return lambda *given: (torch.zeros_like(inputs[0]),)

    block = AttentionBlock(16).to(torch.bfloat16).requires_grad_(False)
    block.writes_scores = True
    torch.compile(block, backend=backend, fullgraph=True)(torch.zeros(1, 16, 4, 4, dtype=torch.bfloat16))
    assert any("bmm" in name for name in seen)
    assert not any("scaled_dot_product" in name for name in seen)


def test_a_trial_has_tensors_that_lie_in_memory_as_those_of_the_model(both):
    for graph in both:
        described = json.loads(json.dumps(probe.description_of(graph)))["tensors"]
        model = dict(graph.module.named_parameters())
        assert any(not one.is_contiguous() for one in model.values())
        for name, one in model.items():
            made = probe.zeros_of(described[name], CPU)
            assert (made.shape, made.dtype, made.stride()) == (one.shape, one.dtype, one.stride()), name


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3).expand(4, 3), torch.ones(()), torch.ones(0, 5), torch.ones(4, 6)[:, ::2]],
    ids=["expanded", "number", "empty", "part"],
)
def test_tensors_of_every_form_can_be_tried(tensor: Tensor):
    made = probe.zeros_of([list(tensor.shape), "float32", list(tensor.stride())], CPU)
    assert (made.shape, made.stride()) == (tensor.shape, tensor.stride())
    assert not made.any()


@pytest.mark.slow
@pytest.mark.parametrize(("index", "form"), [(0, "artifact"), (1, "package")], ids=["encode", "decode"])
def test_an_engine_of_a_vae_runs_in_a_process_of_its_own_and_here(vae, both, form, index, tmp_path):
    graph, path = both[index], tmp_path / f"engine{aot.FORMS[form].SUFFIX}"
    aot.build(graph, path)
    description = probe.description_of(graph)
    assert probe.failure_at(path, description) is None
    other = plain(graph, vae)
    assert verify.compare(other, aot.load(path, other.module)).relative < 1e-5
    # an older description has no strides, so weights lie otherwise: what is refused is said, not where to read of it
    older = {**description, "tensors": {name: form[:2] for name, form in description["tensors"].items()}}
    failure = probe.failure_at(path, older)
    assert failure is not None
    assert "expected size" in failure
    assert "opcheck" not in failure


class Doubling(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values * 2


@pytest.mark.slow
def test_what_a_compiler_says_is_wrong_is_in_the_message(tmp_path):
    """A real compiler, given code that calls what there is not, as that of a product without a C function."""
    header, compiler = tmp_path / "calls.h", tmp_path / "g++"
    header.write_text("inline int first() { return aoti_torch_cuda_not_there(1); }\n")
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} "$@" -include {header}\n')
    compiler.chmod(0o755)
    graph = Graph("vae-encode", Doubling(), {"values": torch.ones(3)}, "out", width=64, height=32)
    with pytest.raises(
        UserError, match=r"ahead of time \(.*C\+\+ compile error: .aoti_torch_cuda_not_there. was not"
    ):
        aot.build(graph, tmp_path / "engine.pt2", str(compiler))
