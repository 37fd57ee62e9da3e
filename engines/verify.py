"""Whether an engine computes what its module does: largest and relative error, at several lengths of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError

GATE = 1e-3
"""The largest error that an engine in fp32 may have, in relation to the largest number of the module's output."""
HALF_GATE = 5e-2  # in bf16, where both round, in different order
LENGTHS = (16, 48, 160)


@dataclass(frozen=True, slots=True)
class Errors:
    """How far an engine is from its module.

    Attributes:
        largest: Of the differences.
        relative: `largest` in relation to the largest number of the module's output.
        gate: What `relative` may be.
    """

    largest: float
    relative: float
    gate: float

    @property
    def passed(self) -> bool:
        """Whether the engine is near enough; errors that are no numbers are not."""
        return self.relative <= self.gate

    def __str__(self) -> str:
        return f"largest error {self.largest:.2e}, relative {self.relative:.2e} (at most {self.gate:g})"


@torch.no_grad()
def compare(graph: Graph, engine: Callable[..., Tensor], lengths: Sequence[int] = LENGTHS) -> Errors:
    """Compare an engine with the module of its graph, at several lengths of texts if these are open.

    Args:
        graph: Of the engine.
        engine: Takes the inputs of the graph by position.
        lengths: Of texts.
    """
    largest = relative = 0.0
    half = False
    for length in lengths if graph.open else lengths[:1]:
        inputs = graph.example_of(length=length)
        wanted, found = graph.module(*inputs), engine(*inputs)
        half = wanted.dtype in (torch.bfloat16, torch.float16)
        difference = (found.float() - wanted.float()).abs().max().item()
        error = difference / max(wanted.float().abs().max().item(), 1e-12)
        if not error <= relative:  # also if it is not a number
            largest, relative = difference, error
    return Errors(largest, relative, HALF_GATE if half else GATE)


def onnx_engine(path: Path) -> Callable[..., Tensor]:
    """An ONNX file in ONNX Runtime, on the CPU, as an engine.

    Raises:
        UserError: ONNX Runtime is missing, or does not take the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("verifying ONNX files needs onnxruntime: install wanbatch[onnx]") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path}: ONNX Runtime does not take it ({str(error).splitlines()[0]})") from error
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: one.cpu().numpy() for name, one in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run
