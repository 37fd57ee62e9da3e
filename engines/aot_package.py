"""Packages of AOTInductor: a library in C++ and its kernels, which run without PyTorch's compiler.

The library checks the sizes, types and strides of its inputs, which it does only if it is told to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.engines.exporting import compiling, export, first_line, quietly, require_tensors
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError

SUFFIX = ".pt2"
CHECK_INPUTS = "AOTI_RUNTIME_CHECK_INPUTS"


def build(graph: Graph, path: Path) -> None:
    """Compile a graph into a package.

    Args:
        graph: What is compiled, on the device of its inputs.
        path: Of the package.

    Raises:
        UserError: PyTorch cannot export or compile it.
    """
    with compiling(graph):
        torch._inductor.aoti_compile_and_package(export(graph), package_path=str(path), inductor_configs=_options())


def load(path: str | Path, tensors: Mapping[str, Tensor]) -> Callable[..., Tensor]:
    """Load a package onto tensors, which must stay where they are in memory.

    Args:
        path: Of the package.
        tensors: By the names that the graph's module has for them.

    Raises:
        UserError: It cannot be loaded, or is of a model of another form.
    """
    os.environ[CHECK_INPUTS] = "1"
    with quietly():
        try:
            # as `torch._inductor.aoti_load_package`, which imports a compiler for it and so takes seconds
            package = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
            names = package.get_constant_fqns()
        except Exception as error:
            raise UserError(f"{path}: cannot be loaded ({first_line(error)}): build it again") from error
    require_tensors(path, names, tensors)
    weights = {name: tensors[name] for name in names}
    package.load_constants(weights, False, True, True)  # all of them, and where they are
    return partial(_run, package, weights)


def _run(package: Any, weights: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
    """The output of a package; it reads `weights`, which must be there as long as it."""
    output: Tensor = package.boxed_run(list(inputs))[0]
    return output


def _options() -> dict[str, Any]:
    """Fresh each time: the compiler changes what it is given."""
    return {
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.compile_wrapper_opt_level": "O0",  # half the time; what it wraps is compiled as always
        "deterministic": True,  # as `compiler.py`
    }
