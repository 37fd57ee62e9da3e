"""ONNX files of a small model's parts, and what tests need the library of TensorRT for RTX."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wanbatch.engines import onnx_export
from wanbatch.engines.building import graph_of
from wanbatch.engines.graphs import Graph
from wanbatch.pipeline.loading.modules import Modules

PARTS = ("text", "dit", "vae-encode", "vae-decode")
HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt-rtx is not installed: wanbatch[tensorrt-rtx]")


def exports_of(modules: Modules, folder: Path, dtype: torch.dtype) -> Callable[[str], tuple[Graph, Path]]:
    """Gives each part's graph and its file, made when it is first asked for."""
    made: dict[str, tuple[Graph, Path]] = {}

    def make(name: str) -> tuple[Graph, Path]:
        if name not in made:
            graph = graph_of(modules, name, (64, 32), 2 if name == "dit" else 1, torch.device("cpu"), dtype)
            path = folder / f"{name}.onnx"
            onnx_export.export(graph, path)
            made[name] = graph, path
        return made[name]

    return make
