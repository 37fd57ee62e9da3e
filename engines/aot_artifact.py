"""Artefacts of `torch.compile`: the same compiled kernels as in a package, called from Python, in one file.

They need no library of AOTInductor, so they run where its packages cannot be loaded. A file holds what the compiler
wrote, the inputs that it is for, and the tensors of the graph that the model does not have. For a GPU that is machine
code; for a CPU it is C++, which is compiled when it is loaded.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.engines.exporting import (
    compiling,
    dtype_name,
    export,
    first_line,
    quietly,
    require_tensors,
    tensors_of,
)
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError

SUFFIX = ".artifact"
CODE, DESCRIPTION, CONSTANTS = "code", "description.json", "constants.pt"


def build(graph: Graph, path: Path) -> None:
    """Compile a graph into an artefact.

    Args:
        graph: What is compiled, on the device of its inputs.
        path: Of the file.

    Raises:
        UserError: PyTorch cannot export or compile it.
    """
    with compiling(graph), tempfile.TemporaryDirectory(prefix="wanbatch-") as folder:
        exported = export(graph)
        code = Path(folder) / CODE
        _compile(exported).save(path=str(code))
        names = [spec.target for spec in exported.graph_signature.input_specs if spec.target is not None]
        constants = {name: exported.constants[name] for name in names if name not in tensors_of(graph.module)}
        saved = io.BytesIO()
        torch.save(constants, saved)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(DESCRIPTION, json.dumps({"tensors": names, "inputs": _inputs_of(graph)}))
            file.writestr(CONSTANTS, saved.getvalue())
            file.write(code, CODE)


def load(path: str | Path, tensors: Mapping[str, Tensor]) -> Callable[..., Tensor]:
    """Load an artefact onto tensors, which it reads anew in each call.

    Args:
        path: Of the file.
        tensors: By the names that the graph's module has for them.

    Raises:
        UserError: It cannot be loaded, or is of a model of another form.
    """
    with quietly(), tempfile.TemporaryDirectory(prefix="wanbatch-") as folder:
        try:
            with zipfile.ZipFile(path) as file:
                description = json.loads(file.read(DESCRIPTION))
                device = next(iter(tensors.values())).device if tensors else None
                constants = torch.load(io.BytesIO(file.read(CONSTANTS)), map_location=device, weights_only=True)
                file.extract(CODE, folder)
            artifact: Any = torch._inductor.CompiledArtifact.load(path=str(Path(folder) / CODE))
        except Exception as error:
            raise UserError(f"{path}: cannot be loaded ({first_line(error)}): build it again") from error
    known = {**tensors, **constants}
    require_tensors(path, description["tensors"], known)
    weights = [known[name] for name in description["tensors"]]
    wanted = description["inputs"]

    def run(*inputs: Tensor) -> Tensor:
        _check(wanted, inputs)
        return artifact(*weights, *inputs)[0]

    return run


def _compile(exported: Any) -> Any:
    """The compiled form of an exported program, whose weights are inputs."""
    module = exported.graph_module
    for node in module.graph.nodes:
        if "val" in node.meta:  # where the compiler looks for sizes that are open
            node.meta["example_value"] = node.meta["val"]
    examples = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    with torch._inductor.config.patch(deterministic=True):  # as `compiler.py`
        return torch._inductor.standalone_compile(module, examples, dynamic_shapes="from_graph", aot=True)


def _inputs_of(graph: Graph) -> list[dict[str, Any]]:
    """Of each input: its dtype, its sizes, its strides if all sizes are fixed, and the bounds of open ones."""
    found = []
    for name, example in graph.inputs.items():
        opened = graph.open.get(name, {})
        found.append(
            {
                "name": name,
                "dtype": dtype_name(example.dtype),
                "sizes": list(example.shape),
                "strides": None if opened else list(example.stride()),
                "open": {index: (one.name, one.least, one.most) for index, one in opened.items()},
            }
        )
    return found


def _check(wanted: Sequence[Mapping[str, Any]], inputs: Sequence[Tensor]) -> None:
    """Raises RuntimeError, as packages do, if inputs are not what an engine is for."""
    sizes: dict[str, int] = {}
    for one, given in zip(wanted, inputs, strict=True):
        right = dtype_name(given.dtype) == one["dtype"] and given.dim() == len(one["sizes"])
        if right:
            for index, size in enumerate(given.shape):
                name, least, most = one["open"].get(str(index), ("", one["sizes"][index], one["sizes"][index]))
                right &= least <= size <= most and sizes.setdefault(name, size) == size if name else size == least
        strides = one["strides"]
        right &= given.is_contiguous() if strides is None else list(given.stride()) == strides
        if not right:
            raise RuntimeError(
                f"{one['name']}: the engine was built for {one['dtype']} {one['sizes']}, and got "
                f"{dtype_name(given.dtype)} {list(given.shape)} with strides {list(given.stride())}"
            )
