"""Stores of engines for tests: of a small model, compiled in earnest, or standing in by the modules themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wanbatch.engines import aot, building, probe
from wanbatch.engines.building import BuildRequest
from wanbatch.engines.graphs import Graph
from wanbatch.engines.store import Store
from wanbatch.pipeline.loading.registry import ModelInfo


class StandIn:
    """What `aot` builds and loads, without a compiler: an engine is the module, and as strict as an engine.

    Attributes:
        built: Labels of graphs, in the order in which they were built.
        calls: Sizes of the first input of each call of an engine.
        factor: What outputs are multiplied by, to tell an engine from its module.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.built: list[str] = []
        self.calls: list[tuple[int, ...]] = []
        self.factor = factor

    def build(self, graph: Graph, path: Path, compiler: str | None = None) -> None:
        self.built.append(graph.label)
        torch.save([[one.stride(), one.dtype] for one in graph.inputs.values()], path)

    def load(self, path: Path, weights: nn.Module) -> aot.Engine:
        wanted = torch.load(path, weights_only=True)

        def run(*inputs: Tensor) -> Tensor:
            for one, (_, dtype) in zip(inputs, wanted, strict=True):
                assert one.dtype == dtype
                assert one.stride() == torch.empty(one.shape, device="meta").stride()
            self.calls.append(tuple(inputs[0].shape))
            return weights(*inputs) * self.factor

        return run


def request_for(model: ModelInfo, *components: str, slots: int = 2, size: tuple[int, int] = (64, 64)) -> BuildRequest:
    return BuildRequest(model, components, (size,), slots, "aot", ("native",), "cpu", "float32")


def stand_in_store(folder: Path, request: BuildRequest, monkeypatch, factor: float = 1.0) -> tuple[Store, StandIn]:
    """A store of engines that are the modules themselves, and what builds and loads them from now on."""
    made = StandIn()
    monkeypatch.setattr(aot, "build", made.build)
    monkeypatch.setattr(aot, "load", made.load)
    monkeypatch.setattr(probe, "failure_at", lambda path, description, seconds=1: None)
    store = Store.create(folder)
    list(building.build(store, request))
    made.factor = factor
    made.calls.clear()
    return store, made
