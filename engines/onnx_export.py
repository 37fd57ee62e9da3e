"""Graphs as ONNX files, by PyTorch's exporter: named inputs, open lengths of texts, weights beside the file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wanbatch.engines import onnx_fp8
from wanbatch.engines.graphs import Graph
from wanbatch.engines.onnx_fp8 import quantised_linears
from wanbatch.errors import UserError
from wanbatch.pipeline.models.fp8 import Float8Linear

SUFFIX = ".onnx"
DATA_SUFFIX = ".data"  # of the weights, beside the graph: a file of protobuf holds 2 GB at most
OPSET = 20
"""For TensorRT; from 23 on attention is one operator, which its parser does not take yet."""


def export(graph: Graph, path: Path) -> None:
    """Write a graph as an ONNX file, with its weights in a file beside it.

    Args:
        graph: What is written.
        path: Of the file; the weights are in `PATH.data`.

    Raises:
        UserError: A package is missing, or PyTorch cannot export the graph.
    """
    require_exporter()
    dimensions = {name: torch.export.Dim(name, min=least, max=most) for name, least, most in _open(graph)}
    shapes = tuple(
        {index: dimensions[one.name] for index, one in graph.open.get(name, {}).items()} or None
        for name in graph.inputs
    )
    with torch.no_grad(), _quietly(), plain_rms_norm(), exactly_scaled_attention(), quantised_linears():
        try:
            program: Any = torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                dynamo=True,
                verbose=False,
                opset_version=opset_of(graph.module),
                input_names=list(graph.inputs),
                output_names=[graph.output],
                dynamic_shapes=shapes,
                optimize=False,
            )
            _simplify(program.model)
            program.save(str(path), external_data=True)
        except Exception as error:  # whatever the exporter may raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{graph.label}: PyTorch cannot export it to ONNX ({reason})") from error


def _simplify(model: Any) -> None:
    """Fold constants and remove what is not used, in time that grows with the graph.

    The exporter's own optimiser looks for fusions as well, which TensorRT and ONNX Runtime find by themselves, in
    time that grows with the square of the graph: minutes for thirty blocks.
    """
    import onnxscript.optimizer
    from onnx_ir.passes import common

    onnxscript.optimizer.inline(model)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
    for each in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        each(model)


def opset_of(module: nn.Module) -> int:
    """The version of ONNX's operators that a module is written in."""
    return onnx_fp8.OPSET if any(isinstance(one, Float8Linear) for one in module.modules()) else OPSET


def check(path: Path) -> None:
    """Check a file and its weights by ONNX's own rules.

    Raises:
        UserError: It is not a valid model.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path))  # by its path: a model in memory may be too large
    except onnx.checker.ValidationError as error:
        raise UserError(f"{path}: is no valid ONNX model ({str(error).splitlines()[0]}): export it again") from error


def files_of(path: Path) -> list[Path]:
    """The file of a graph and that of its weights, if it has one."""
    data = path.with_name(path.name + DATA_SUFFIX)
    return [path, data] if data.exists() else [path]


def require_exporter() -> None:
    """Raise UserError if a package that exporting needs is missing."""
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise UserError(f"exporting to ONNX needs the package {error.name}: install wanbatch[onnx-export]") from error
    del onnx, onnxscript


def _open(graph: Graph) -> set[tuple[str, int, int]]:
    return {(one.name, one.least, one.most) for opened in graph.open.values() for one in opened.values()}


@contextmanager
def plain_rms_norm() -> Iterator[None]:
    """Have `torch.nn.RMSNorm` compute by plain operations.

    On CUDA PyTorch traces it as one fused operator, for which its ONNX exporter has no translation.
    """

    def plain(given: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        wide = given.float()
        least = torch.finfo(given.dtype).eps if eps is None else eps
        mean = wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
        normed = wide * torch.rsqrt(mean + least)
        return (normed if weight is None else normed * weight).to(given.dtype)

    fused = functional.rms_norm
    functional.rms_norm = plain  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.rms_norm = fused


@contextmanager
def exactly_scaled_attention() -> Iterator[None]:
    """Have attention scale its queries in fp32.

    The exporter scales queries and keys by a root of the scale in their own dtype: in bf16 that is off by 0.3 %.
    """
    real: Any = functional.scaled_dot_product_attention

    def scaled(query: Tensor, *others: Any, scale: float | None = None, **more: Any) -> Tensor:
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        return real((query.float() * factor).to(query.dtype), *others, scale=1.0, **more)

    functional.scaled_dot_product_attention = scaled
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = real


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter and its libraries tell their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
