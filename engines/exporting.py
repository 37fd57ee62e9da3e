"""Graphs as exported programs of PyTorch, which both forms of `aot` engines are compiled of, and their tensors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError
from wanbatch.pipeline.models.attention_choice import attention_kernels

COMPILER_ERROR = re.compile(r"(?:\berror: |: (?=undefined reference to ))(.+)")
"""Of what a compiler or linker writes: the first thing that is wrong, without the place."""


@contextmanager
def compiling(graph: Graph) -> Iterator[None]:
    """What exporting and compiling a graph needs: no gradients, its attention kernels, quiet compilers.

    Raises:
        UserError: PyTorch cannot export or compile it.
    """
    with torch.no_grad(), quietly():
        try:
            with _attention(graph):
                yield
        except Exception as error:  # whatever a compiler may raise
            raise UserError(
                f"{graph.label}: PyTorch cannot compile it ahead of time ({first_line(error)})"
            ) from error


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


def tensor_forms(graph: Graph) -> dict[str, tuple[list[int], str, list[int]]]:
    """Size, dtype and strides of every tensor that an engine of a graph may need beside its inputs, by name.

    Strides, because what is compiled for weights in one memory format (`torch.channels_last`) asserts that
    convolutions give strides of that format, which with other weights they do not.
    """
    return {
        name: (list(one.shape), dtype_name(one.dtype), list(one.stride()))
        for name, one in tensors_of(graph.module).items()
    }


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that has several names by each of them."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in named}


def require_tensors(path: object, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Check that a model has the tensors that an engine runs on.

    Raises:
        UserError: It has not.
    """
    if missing := sorted(set(names) - tensors.keys()):
        raise UserError(f"{path}: is of a model of another form, which has {missing[0]}: build it for this model")


def dtype_name(dtype: torch.dtype) -> str:
    """Of a dtype, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """What an exception says first, or its kind if it says nothing; of a C++ compiler, with the first error of it."""
    said = str(error).strip()
    first = said.splitlines()[0] if said else type(error).__name__
    output = getattr(getattr(error, "inner_exception", error), "output", None)  # PyTorch's CppCompileError has it
    wrong = COMPILER_ERROR.search(output) if isinstance(output, str) else None
    return f"{first}: {wrong[1].strip()}" if wrong else first


def compiled_by(compiler: str | None) -> AbstractContextManager[Any]:
    """Have PyTorch's compiler use a C++ compiler meanwhile.

    Args:
        compiler: Its path; None: the one that it takes.
    """
    return nullcontext() if compiler is None else torch._inductor.config.patch({"cpp.cxx": (None, compiler)})


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of PyTorch's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _attention(graph: Graph) -> Any:
    """On a GPU the attention kernels are chosen while the graph is compiled."""
    device = next(iter(graph.inputs.values())).device
    return attention_kernels(device)
