"""Engines of TensorRT and of TensorRT for RTX: plans that are built of ONNX files, also for GPUs that are not here.

The two libraries have one interface; this code uses whichever is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wanbatch.engines.graphs import LENGTH, PROMPTS, Graph
from wanbatch.errors import UserError
from wanbatch.pipeline.models.fp8 import CAPABILITY

SUFFIX = ".plan"
RTX = "tensorrt-rtx"
MODULES = {
    RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt": ("tensorrt", "tensorrt_bindings", "tensorrt_lean"),
}
NATIVE = "native"
BFLOAT16_CAPABILITY = (8, 0)  # Ampere
USUAL_LENGTH = 64  # tokens of a text that a plan is tuned for
USUAL_PROMPTS = 16

Report = Callable[[str, float], None]
"""Told of a build's progress: the phase, and the share of it that is done."""


def require(backend: str, architectures: Sequence[str]) -> None:
    """Check that plans for some GPUs can be built here.

    Args:
        backend: `tensorrt-rtx` or `tensorrt`.
        architectures: Compute capabilities such as `8.9`, or `native`.

    Raises:
        UserError: The library is missing, or does not build for one of them.
    """
    trt = library(backend)
    if NATIVE in architectures and not _has_gpu():
        raise UserError("--arch native: there is no GPU here: name the architectures, like --arch 8.9,12.0")
    if backend != RTX:
        if tuple(architectures) != (NATIVE,):
            raise UserError(
                f"--arch {','.join(architectures)}: TensorRT builds for the GPU of this machine alone: use --arch "
                "native there, or --backend tensorrt-rtx"
            )
        return
    known = sorted(name for name in dir(trt.ComputeCapability) if name.startswith("SM"))
    for one in named(architectures):
        if _member(one) not in known:
            words = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in sorted(known, key=lambda name: int(name[2:])))
            raise UserError(f"--arch {one}: {backend} {trt.__version__} builds for {words}: name some of these")


def named(architectures: Sequence[str]) -> tuple[str, ...]:
    """Architectures with that of this machine's GPU in the place of `native`, each once."""
    return tuple(dict.fromkeys(_capability() if one == NATIVE else one for one in architectures))


def require_float8(architectures: Sequence[str]) -> None:
    """Check that GPUs have FP8. One without it would fail the whole build.

    Raises:
        UserError: One has not.
    """
    for one in named(architectures):
        if tuple(map(int, one.split("."))) < CAPABILITY:
            raise UserError(
                f"--precision fp8: architecture {one} has no FP8, which GPUs have since 8.9: leave it out"
            )


def in_float16_alone(backend: str, architectures: Sequence[str], precision: str) -> list[str]:
    """Those GPUs that plans are built for in float16, and not in another precision.

    Turing has no bf16, and TensorRT for RTX multiplies no fp32 matrices for it ("FP32 GEMM is not supported").

    Args:
        backend: `tensorrt-rtx` or `tensorrt`.
        architectures: Compute capabilities, or `native`.
        precision: The other one: `bf16`, `fp32`, or `fp8`, which has bf16 around it.

    Returns:
        Compute capabilities, or `native`, as they were given.
    """
    if backend != RTX and precision == "fp32":
        return []
    return [one for one in architectures if tuple(map(int, named([one])[0].split("."))) < BFLOAT16_CAPABILITY]


def require_more_than_float16(backend: str, architectures: Sequence[str], precision: str) -> None:
    """Check that plans for some GPUs can be in bf16 or fp32; see `in_float16_alone`.

    Raises:
        UserError: One can be in float16 alone.
    """
    for one in in_float16_alone(backend, architectures, precision):
        others = "" if len(architectures) == 1 else f", or leave {one} out of --arch"
        raise UserError(
            f"--precision {precision}: {backend} builds for architecture {named([one])[0]} in fp16 alone: use "
            f"--precision fp16{others}"
        )


def library(backend: str) -> Any:
    """The Python module of a library.

    Raises:
        UserError: It is not installed.
    """
    for name in MODULES[backend]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    remedy = f"install wanbatch[{RTX}]" if backend == RTX else "install the package tensorrt of NVIDIA"
    raise UserError(f"--backend {backend}: its library is not installed: {remedy}")


def version(backend: str) -> str:
    """Name and version of the library, such as `tensorrt-rtx 1.7.1.116`."""
    return f"{backend} {library(backend).__version__}"


def build(
    onnx: Path,
    graph: Graph,
    plan: Path,
    architectures: Sequence[str],
    workspace: int = 0,
    backend: str = RTX,
    report: Report | None = None,
) -> dict[str, Any]:
    """Build a plan of an ONNX file.

    Args:
        onnx: The file, which lies beside its weights.
        graph: That it was exported of.
        plan: Where the plan goes.
        architectures: Compute capabilities such as `8.9`, or `native`.
        workspace: Bytes of working memory that may be planned with; 0: as much as the library likes.
        backend: `tensorrt-rtx` or `tensorrt`.
        report: Told of the progress.

    Returns:
        What the library says of it: type and sizes of inputs and outputs, profiles of open ones, architectures.

    Raises:
        UserError: An operator is not supported, or the build fails.
    """
    trt = library(backend)
    logger = quiet_logger(trt)
    builder = trt.Builder(logger)
    network, parser = _parsed(trt, builder, logger, onnx, f"{graph.label}: {backend}")
    config = builder.create_builder_config()
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    targets = () if tuple(architectures) == (NATIVE,) else named(architectures)
    _set_architectures(trt, config, targets)
    profile = _profile(builder, graph)
    if graph.open:
        config.add_optimization_profile(profile)
    if report is not None:
        config.progress_monitor = _monitor(trt, report)
    data = builder.build_serialized_network(network, config)
    del parser
    if data is None:
        raise UserError(f"{graph.label}: {backend} cannot build it: {logger.last or 'it gives no reason'}")
    plan.write_bytes(bytes(data))
    return {
        "tensors": _tensors_of(network),
        "profile": {name: [list(shape) for shape in profile.get_shape(name)] for name in graph.open},
        "architectures": [str(config.get_compute_capability(i)).rpartition(".")[2] for i in range(len(targets))],
    }


def _set_architectures(trt: Any, config: Any, architectures: Sequence[str]) -> None:
    if architectures:
        config.num_compute_capabilities = len(architectures)
    for index, one in enumerate(architectures):
        config.set_compute_capability(getattr(trt.ComputeCapability, _member(one)), index)


def _parsed(trt: Any, builder: Any, logger: Any, onnx: Path, what: str) -> tuple[Any, Any]:
    """The network of an ONNX file, and what keeps its weights. Raises UserError that names unsupported nodes."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return network, parser
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    shown = [f"{one.node_name() or 'the graph'} ({one.node_operator()}): {one.desc()}" for one in found[:4]]
    raise UserError(f"{what} does not take its graph: {'; '.join(shown) or logger.last}")


def is_damaged(plan: Path, backend: str = RTX) -> bool:
    """Whether the library finds a plan's header malformed, which it can tell without a GPU, too."""
    trt = library(backend)
    _, diagnostics = trt.Runtime(quiet_logger(trt)).get_engine_validity(plan.read_bytes())
    return bool(diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE))


def inspect(plan: Path, backend: str = RTX) -> dict[str, Any]:
    """What the library says of a plan: its inputs and outputs with their types, sizes and profiles.

    Only where the library can load it: on a GPU, with the library that built it. Call it in a process of its own: on
    some machines without a driver the library ends the process.

    Raises:
        UserError: The library does not load it.
    """
    trt = library(backend)
    logger = quiet_logger(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise UserError(f"{plan}: {backend} does not load it: {logger.last or 'it gives no reason'}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: {
            "input": engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            "dtype": str(engine.get_tensor_dtype(name)).rpartition(".")[2],
            "shape": list(engine.get_tensor_shape(name)),
            "profile": _profile_of(trt, engine, name),
        }
        for name in names
    }


def _profile(builder: Any, graph: Graph) -> Any:
    """The least, the usual and the largest size of each input."""
    profile = builder.create_optimization_profile()
    usual = {LENGTH: USUAL_LENGTH, PROMPTS: USUAL_PROMPTS}
    for name, example in graph.inputs.items():
        opened = graph.open.get(name, {})
        sizes = [list(example.shape) for _ in range(3)]
        for index, one in opened.items():
            for shape, size in zip(sizes, (one.least, usual[one.name], one.most), strict=True):
                shape[index] = size
        if opened:
            profile.set_shape(name, *map(tuple, sizes))
    return profile


def _profile_of(trt: Any, engine: Any, name: str) -> list[list[int]] | None:
    if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT or -1 not in engine.get_tensor_shape(name):
        return None
    return [list(shape) for shape in engine.get_tensor_profile_shape(name, 0)]


def _tensors_of(network: Any) -> dict[str, list[Any]]:
    """Sizes and type of each input and output of a network."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {one.name: [list(one.shape), str(one.dtype).rpartition(".")[2]] for one in (*inputs, *outputs)}


def _member(architecture: str) -> str:
    return f"SM{architecture.replace('.', '')}"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _capability() -> str:
    import torch

    return ".".join(map(str, torch.cuda.get_device_capability()))


def quiet_logger(trt: Any) -> Any:
    """Keeps the last error, and prints nothing."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = message

    return Logger()


def _monitor(trt: Any, report: Report) -> Any:
    """Passes on how far each phase of a build is."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            report(phase, (step + 1) / max(1, self.steps.get(phase, 1)))
            return True

        def phase_finish(self, phase: str) -> None:
            report(phase, 1.0)

    return Monitor()
