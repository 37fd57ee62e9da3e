"""Engines that PyTorch compiles ahead of time, for the kind of device that they are built on, in either of two forms.

A package of AOTInductor (`aot_package.py`) is taken where it can be loaded, an artefact of `torch.compile`
(`aot_artifact.py`) elsewhere. The weights stay outside of both: an engine runs on those of the loaded model, so that
it is small and takes no memory of its own; but the compiler writes tensors of a few numbers into the code, so an
engine is for one set of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from wanbatch.engines import aot_artifact, aot_package
from wanbatch.engines.exporting import compiled_by, tensors_of
from wanbatch.engines.graphs import Graph

FORMS = {"package": aot_package, "artifact": aot_artifact}
"""What builds and loads each form; the first one is preferred."""

Engine = Callable[..., Tensor]
"""Takes the inputs of a graph by position and returns its output."""


def build(graph: Graph, path: Path, compiler: str | None = None) -> None:
    """Compile a graph into an engine.

    Args:
        graph: What is compiled, on the device of its inputs.
        path: Of the engine, whose suffix says of which form.
        compiler: The C++ compiler; None: the one that PyTorch takes.

    Raises:
        UserError: PyTorch cannot export or compile it.
    """
    with compiled_by(compiler):
        FORMS[form_of(path)].build(graph, path)


def load(path: Path, weights: nn.Module) -> Engine:
    """Load an engine that was built of a graph, onto the weights of such a graph's module.

    The weights must stay where they are in memory as long as the engine is used.

    Args:
        path: Of the engine.
        weights: The module of a graph of the same kind, whose parameters and buffers the engine will use.

    Raises:
        UserError: The engine cannot be loaded, or is of a model of another form.
    """
    return load_onto(path, tensors_of(weights))


def load_onto(path: str | Path, tensors: Mapping[str, Tensor]) -> Engine:
    """As `load`, with the weights by name."""
    return FORMS[form_of(path)].load(path, tensors)


def form_of(path: str | Path) -> str:
    """One of `FORMS`, by the suffix of an engine's file."""
    return next((form for form, kind in FORMS.items() if Path(path).suffix == kind.SUFFIX), next(iter(FORMS)))
