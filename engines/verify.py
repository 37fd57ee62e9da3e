"""Whether an engine computes what its module does: largest and relative error, at several lengths of texts."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wanbatch.engines import onnx_widening
from wanbatch.engines.graphs import HALVES, Graph, in_float32
from wanbatch.engines.stored_engine import EngineKey
from wanbatch.errors import UserError

GATE = 1e-3
"""The largest error that an engine in fp32 may have, in relation to the largest number of the module's output."""
HALF_GATE = 5e-2  # in bf16 and fp16, where both round, in different order
FLOAT8_GATE = 1e-1  # in FP8, where numbers that differ in their last bit may be rounded to different eight bits
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


def gate_of(key: EngineKey) -> float:
    """What `Errors.relative` of an engine may be, by what it computes in."""
    if key.float8:
        return FLOAT8_GATE
    return GATE if key.dtype == "float32" else HALF_GATE


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
        half = wanted.dtype in HALVES
        difference = (found.float() - wanted.float()).abs().max().item()
        error = difference / max(wanted.float().abs().max().item(), 1e-12)
        if not (math.isnan(relative) or error <= relative):  # what is not a number stays the largest
            largest, relative = difference, error
    return Errors(largest, relative, HALF_GATE if half else GATE)


def can_compare_onnx(key: EngineKey, files: Sequence[Path], device: str) -> bool:
    """Whether an ONNX file can be compared with its module: in fp32 any, in others a small one on a CPU.

    Args:
        key: Of the engine.
        files: Of the engine.
        device: Where the module is.
    """
    size = sum(path.stat().st_size for path in files)
    return key.dtype == "float32" or (device == "cpu" and size <= onnx_widening.LARGEST_BYTES)


def compare_onnx(graph: Graph, path: Path, key: EngineKey) -> Errors:
    """Compare an ONNX file, run by ONNX Runtime on the CPU, with the module of its graph.

    ONNX Runtime does not compute in bf16 there, so a file in bf16 is compared with fp32 in its place, and so is the
    module; its weights are the same numbers. Layers in FP8 stay such.

    Args:
        graph: That the file was exported of.
        path: Of the file.
        key: Of the engine.

    Raises:
        UserError: ONNX Runtime is missing, or does not take the file.
    """
    gate = gate_of(key)
    if key.dtype in ("float32", "float16"):
        return replace(compare(graph, onnx_engine(path)), gate=gate)
    with tempfile.TemporaryDirectory(prefix="wanbatch-") as folder:
        wide = onnx_widening.widened(path, Path(folder) / "wide.onnx")
        return replace(compare(widened(graph), onnx_engine(wide)), gate=gate)


def compare_float16(graph: Graph) -> Errors:
    """Compare a graph in float16, run by PyTorch where it is, with the same weights in fp32.

    What float16 does not hold becomes infinite there; ONNX Runtime on a CPU may keep it in fp32 and hide that.

    Args:
        graph: See `float16.called_in_float32`.
    """
    return replace(compare(widened(graph), graph.module), gate=HALF_GATE)


def widened(graph: Graph) -> Graph:
    """A graph in fp32 with the same numbers; the module is a copy."""
    return replace(graph, module=copy.deepcopy(graph.module).float(), inputs=in_float32(graph.inputs))


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
    options.log_severity_level = 4  # its error is raised
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # there is no product in FP8 to fuse them to
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path}: ONNX Runtime does not take it ({str(error).splitlines()[0]})") from error
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: one.cpu().numpy() for name, one in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run
