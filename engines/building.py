"""Building the engines of a model into a store: which there are to be, and what becomes of each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wanbatch.engines import aot, float16, graphs, onnx_export, onnx_fp8, probe, tensorrt, verify
from wanbatch.engines.aot_forms import FormsHere
from wanbatch.engines.build_progress import BuildProgress
from wanbatch.engines.graphs import Graph
from wanbatch.engines.labels import COMPONENTS, SECOND_TRANSFORMER, TRANSFORMER
from wanbatch.engines.selection import TRANSFORMERS, architecture_of
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import AOT, FLOAT8, EngineKey, StoredEngine
from wanbatch.errors import UserError
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.single_frame import PRECISION_OF, single_frame_vae
from wanbatch.pipeline.loading.weights import DTYPES, load
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.umt5 import PlainUMT5

ONNX, TENSORRT, TENSORRT_RTX = "onnx", "tensorrt", "tensorrt-rtx"
BACKENDS = (AOT, TENSORRT_RTX, TENSORRT, ONNX)
NATIVE, ANY = "native", "any"
FLOAT16 = "float16"
PRECISIONS = PRECISION_OF | {FLOAT16: "fp16"}
"""What a user calls a dtype."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Which engines are to be built.

    Attributes:
        model: Of which model.
        components: Some of `text`, `dit`, `vae`.
        sizes: Width and height of pictures, in pixels.
        slots: Rows that runs will denoise together.
        backend: One of `BACKENDS`.
        architectures: Such as `8.9`; `native` for that of this machine.
        device: `cuda` or `cpu`: where the model is loaded and `aot` engines run.
        dtype: Of the weights, as torch calls it.
        workspace: Bytes of working memory that TensorRT may plan with; 0: as much as it likes.
        float8: Whether the transformer's large layers are in FP8.
    """

    model: ModelInfo
    components: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    slots: int
    backend: str
    architectures: Sequence[str]
    device: str
    dtype: str
    workspace: int = 0
    float8: bool = False

    @property
    def precision(self) -> str:
        """As a user names it."""
        return "fp8" if self.float8 else PRECISIONS[self.dtype]


@dataclass(frozen=True, slots=True)
class Built:
    """What became of one engine.

    Attributes:
        label: The part that it stands for.
        what: `built`, `rebuilt` or `there already`.
        seconds: That it took.
        bytes: Of its files.
        errors: How far it is from its module; empty if it cannot run here.
        why: What was wrong with an engine that was built again.
        refused: Forms of `aot` engines that do not run here, and how they failed; another one was taken.
    """

    label: str
    what: str
    seconds: float = 0.0
    bytes: int = 0
    errors: str = ""
    why: str = ""
    refused: str = ""


def check(request: BuildRequest) -> None:
    """Check a request before a model is loaded.

    Raises:
        UserError: It asks for what there cannot be.
    """
    multiple = request.model.multiple
    if set(request.components) - {"text"} and not request.sizes:
        raise UserError("engines of dit and vae are for one size each: give --size, like --size 1280x704")
    for width, height in request.sizes:
        if width % multiple or height % multiple or width <= 0 or height <= 0:
            raise UserError(f"--size {width}x{height}: sides must be multiples of {multiple} for this model")
    if request.backend == AOT:
        if tuple(request.architectures) != (NATIVE,):
            raise UserError(
                f"--arch {','.join(request.architectures)}: aot builds for the device of this machine alone: use "
                "--arch native there, or --backend tensorrt-rtx"
            )
        if request.float8 or request.dtype == FLOAT16:
            raise UserError(
                f"--precision {request.precision}: engines of aot are built in bf16 or fp32, as runs are: use "
                "--precision bf16, or --backend onnx"
            )
        if request.device == "cuda" and "text" in request.components:
            raise UserError(
                "--component text: on a GPU our own kernels run the text encoder faster than an aot engine: leave "
                "it out (--component vae,dit)"
            )
    elif request.backend == ONNX:
        onnx_export.require_exporter()
    else:
        tensorrt.require(request.backend, request.architectures)
        if request.float8:
            tensorrt.require_float8(request.architectures)
        if request.dtype != FLOAT16:
            tensorrt.require_more_than_float16(request.backend, request.architectures, request.precision)


def build(store: Store, request: BuildRequest, report: Callable[[str], None] = lambda words: None) -> Iterator[Built]:
    """Build what a store lacks, one engine after the other; what is damaged is built again.

    Args:
        store: Where they go.
        request: Which ones.
        report: Told of what is being built, how far it is, and how long the others will take.

    Raises:
        UserError: One cannot be built, or does not compute what its module does.
        MachineryError: The disk refuses.
    """
    check(request)
    device = torch.device(request.device)
    parts: Modules | None = None
    forms = FormsHere()
    keys = {one: key_of(request, *one) for one in wanted(request)}
    there = {one: store.find(key) for one, key in keys.items()}
    progress = BuildProgress(sum(not isinstance(one, StoredEngine) for one in there.values()), report)
    for (component, size, rows), key in keys.items():
        found = there[component, size, rows]
        if isinstance(found, StoredEngine):
            yield Built(key.label, "there already")
            continue
        progress.begins(key.label)
        parts = parts or loaded(request.model, device, request.dtype, request.float8)
        graph = graph_of(parts, component, size, rows, device, DTYPES[request.dtype])
        begin = time.perf_counter()
        size_of, errors = _build_one(store, key, graph, request, forms, progress)
        what, why = ("built", "") if found is None else ("rebuilt", found.reason)
        seconds = round(time.perf_counter() - begin, 2)
        progress.ended(seconds)
        yield Built(key.label, what, seconds, size_of, errors, why, str(forms))


def wanted(request: BuildRequest) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Component, size and rows of each engine that a request asks for."""
    for name in request.components:
        for component in COMPONENTS[name]:
            if component == SECOND_TRANSFORMER and not request.model.two_experts:
                continue
            if component == "text":
                yield component, (0, 0), 1
                continue
            for size in request.sizes:
                if component in (TRANSFORMER, SECOND_TRANSFORMER):
                    yield from ((component, size, rows) for rows in (request.slots, 2 * request.slots))
                else:
                    yield component, size, 1


def key_of(request: BuildRequest, component: str, size: tuple[int, int], rows: int) -> EngineKey:
    """What an engine of a request is known by in a store."""
    if request.backend == AOT:
        capability = torch.cuda.get_device_capability() if request.device == "cuda" else (0, 0)
        architecture = architecture_of(request.device, capability, torch.backends.cpu.get_cpu_capability())
        version = f"torch {torch.__version__}"
    elif request.backend == ONNX:
        in_float8 = request.float8 and component in TRANSFORMERS
        architecture, version = ANY, f"opset {onnx_fp8.OPSET if in_float8 else onnx_export.OPSET}"
    else:
        architecture, version = ",".join(tensorrt.named(request.architectures)), tensorrt.version(request.backend)
    dtype = request.dtype + (FLOAT8 if request.float8 and component in TRANSFORMERS else "")
    return EngineKey(component, request.model.digest, *size, rows, dtype, request.backend, version, architecture)


def loaded(model: ModelInfo, device: torch.device, dtype: str, float8: bool) -> Modules:
    """The parts of a model that graphs are made of.

    Args:
        model: Which one.
        device: Where it goes.
        dtype: Of its weights.
        float8: Whether the transformer's large layers become ones in FP8.

    Raises:
        UserError: It has layers that FP8 does not take.
    """
    parts = load(model, device, DTYPES[dtype])
    if dtype == FLOAT16:
        return float16.prepared(parts)
    if not float8:
        return parts
    second = parts.low_noise_transformer
    return replace(
        parts,
        transformer=FrameTransformer(parts.transformer).fuse().to_float8(),
        low_noise_transformer=None if second is None else FrameTransformer(second).fuse().to_float8(),
    )


def graph_of(
    parts: Modules, component: str, size: tuple[int, int], rows: int, device: torch.device, dtype: torch.dtype
) -> Graph:
    """The graph of one engine; in float16 it takes and gives float32, see `float16.py`.

    Args:
        parts: Of the model, loaded on the device; see `loaded`.
        component: See `labels.py`.
        size: Of pictures, in pixels.
        rows: Of its batch.
        device: Where the model is.
        dtype: Of its weights.
    """
    made = _graph_of(parts, component, size, rows, device, dtype)
    return float16.called_in_float32(made) if dtype == torch.float16 else made


def _graph_of(
    parts: Modules, component: str, size: tuple[int, int], rows: int, device: torch.device, dtype: torch.dtype
) -> Graph:
    stride = parts.vae.config.scale_factor_spatial
    if component == "text":
        return graphs.text_graph(PlainUMT5(parts.text_encoder), rows, device)
    if component in (TRANSFORMER, SECOND_TRANSFORMER):
        model: Any = parts.transformer if component == TRANSFORMER else parts.low_noise_transformer
        frame = model if isinstance(model, FrameTransformer) else FrameTransformer(model).fuse()
        return graphs.step_graph(frame, size, stride, rows, device, component)
    vae = single_frame_vae(parts.vae, device)
    both = graphs.vae_graphs(vae, size, stride, parts.vae.config.z_dim, dtype, device)
    return next(graph for graph in both if graph.component == component)


def _build_one(
    store: Store, key: EngineKey, graph: Graph, request: BuildRequest, forms: FormsHere, progress: BuildProgress
) -> tuple[int, str]:
    """Build one engine in a folder inside the store, verify it and take it in. Returns its bytes and its errors."""
    folder = store.new_build()
    begin = time.perf_counter()
    try:
        notes: dict[str, Any] = {}
        errors: verify.Errors | None = None
        if request.backend == AOT:
            notes["probe"] = probe.description_of(graph)
            files = [forms.build(graph, folder, key.name, notes["probe"])]
            errors = verify.compare(graph, aot.load(files[0], graph.module))
        else:
            if request.dtype == FLOAT16 and not (errors := verify.compare_float16(graph)).passed:
                raise UserError(
                    f"{key.label}: some of its numbers are larger than float16 holds ({float16.LARGEST:g} at most), "
                    f"or too small: {errors}: {_instead_of_float16(request, key.component)}"
                )
            path = folder / f"{key.name}{onnx_export.SUFFIX}"  # which the file itself names its weights by
            onnx_export.export(graph, path)
            files = onnx_export.files_of(path)
            onnx_export.check(path)
            if verify.can_compare_onnx(key, files, request.device):
                errors = verify.compare_onnx(graph, path, key)
            if request.backend != ONNX:
                files = [folder / f"{key.name}{tensorrt.SUFFIX}"]
                notes["plan"] = tensorrt.build(
                    path, graph, files[0], request.architectures, request.workspace, request.backend, progress.phase
                )
        if errors is not None and not errors.passed:
            raise UserError(f"{key.label}: is not what the module computes, and is not kept: {errors}")
        notes |= {"seconds": round(time.perf_counter() - begin, 2), "errors": str(errors or "")}
        engine = store.add(key, files, graph.shapes(), notes)
        return engine.bytes, str(errors or "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _instead_of_float16(request: BuildRequest, component: str) -> str:
    """What a user can do about a part that float16 cannot hold; GPUs without bf16 may have no engine of it."""
    bf16 = PRECISIONS["bfloat16"]
    alone = () if request.backend == ONNX else tensorrt.in_float16_alone(request.backend, request.architectures, bf16)
    if not alone:
        return f"use --precision {bf16}"
    if request.backend != TENSORRT_RTX:
        return "use --precision fp32"
    which = ", ".join(alone)
    if len(alone) < len(request.architectures):
        return f"for {which} there is no other precision: leave {which} out of --arch, and use --precision {bf16}"
    name = next(name for name, parts in COMPONENTS.items() if component in parts)
    if len(set(request.components)) > 1:
        return f"for {which} there is no other precision: leave {name} out of --component"
    return f"for {which} there is no other precision: give other architectures to --arch, and --precision {bf16}"
