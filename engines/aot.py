"""Engines of AOTInductor: PyTorch code compiled ahead of time, for the kind of device that it is built on.

The weights stay outside: an engine runs on those of the loaded model, so that it is small and takes no memory of its
own; but the compiler writes tensors of a few numbers into the code, so an engine is for one set of weights. It checks
the sizes, types and strides of its inputs, which AOTInductor does only if it is told to.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError
from wanbatch.pipeline.models.dit import ATTENTION_KERNELS

SUFFIX = ".pt2"
CHECK_INPUTS = "AOTI_RUNTIME_CHECK_INPUTS"

Engine = Callable[..., Tensor]
"""Takes the inputs of a graph by position and returns its output."""


def build(graph: Graph, path: Path) -> None:
    """Compile a graph into a package.

    Args:
        graph: What is compiled, on the device of its inputs.
        path: Of the package, whose name ends with `.pt2`.

    Raises:
        UserError: PyTorch cannot export or compile it.
    """
    with torch.no_grad(), _quietly():
        try:
            exported = export(graph)
            with _attention(graph):
                torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(path), inductor_configs=_options()
                )
        except Exception as error:  # whatever a compiler may raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{graph.label}: PyTorch cannot compile it ahead of time ({reason})") from error


def export(graph: Graph) -> Any:
    """The `ExportedProgram` of a graph."""
    dims: dict[str, Any] = {}
    shapes = []
    for name in graph.inputs:
        opened = graph.open.get(name, {})
        for one in opened.values():
            dims.setdefault(one.name, torch.export.Dim(one.name, min=one.least, max=one.most))
        shapes.append({index: dims[one.name] for index, one in opened.items()} or None)
    return torch.export.export(graph.module, tuple(graph.inputs.values()), dynamic_shapes=tuple(shapes), strict=False)


def load(path: Path, weights: nn.Module) -> Engine:
    """Load a package that was built of a graph, onto the weights of such a graph's module.

    The weights must stay where they are in memory as long as the engine is used.

    Args:
        path: Of the package.
        weights: The module of a graph of the same kind, whose parameters and buffers the engine will use.

    Raises:
        UserError: The package cannot be loaded, or is of a model of another form.
    """
    return load_onto(path, tensors_of(weights))


def load_onto(path: str | Path, tensors: Mapping[str, Tensor]) -> Engine:
    """As `load`, with the weights by name."""
    os.environ[CHECK_INPUTS] = "1"
    with _quietly():
        try:
            package = torch._inductor.aoti_load_package(str(path))
            names = package.get_constant_fqns()
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{path}: cannot be loaded ({reason}): build it again") from error
    if missing := sorted(set(names) - tensors.keys()):
        raise UserError(f"{path}: is of a model of another form, which has {missing[0]}: build it for this model")
    package.load_constants({name: tensors[name] for name in names}, check_full_update=True, user_managed=True)

    def run(*inputs: Tensor) -> Tensor:
        return package(*inputs)

    return run


def tensor_shapes(graph: Graph) -> dict[str, tuple[list[int], str]]:
    """Size and dtype of every tensor that an engine of a graph may need beside its inputs, by name."""
    return {
        name: (list(one.shape), str(one.dtype).removeprefix("torch."))
        for name, one in tensors_of(graph.module).items()
    }


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that has several names by each of them."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in named}


def _options() -> dict[str, Any]:
    """Fresh each time: the compiler changes what it is given."""
    return {
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.compile_wrapper_opt_level": "O0",  # half the time; what it wraps is compiled as always
        "deterministic": True,  # as `compiler.py`
    }


def _attention(graph: Graph) -> Any:
    """On a GPU the attention kernels are chosen while the graph is compiled."""
    device = next(iter(graph.inputs.values())).device
    return sdpa_kernel(ATTENTION_KERNELS, set_priority=True) if device.type == "cuda" else nullcontext()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of PyTorch's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
