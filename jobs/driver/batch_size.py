"""How many rows are denoised together in a run: as set, as an earlier run of the folder measured, or measured now.

The number is part of the run's fingerprint, because it decides the last bits of the pixels; so it is measured
once for a folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.source_sizes import Measuring, loading_from, size_rows
from wanbatch.manifests.sources.size_cache import SizeCache
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.residency import Residency, plan_residency, weight_sizes, working_for
from wanbatch.pipeline.loading.runtime import Runtime

SAMPLE = 2048
"""Rows whose sources are looked at to tell which size is the most common."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How many rows are denoised together.

    Attributes:
        slots: rows in a batch.
        milliseconds: batch size -> milliseconds of a step and row, if they were measured now.
    """

    slots: int
    milliseconds: dict[int, float] = field(default_factory=dict)


Measure = Callable[[ModelInfo, tuple[int, int, bool], ExecutionConfig, Runtime], dict[int, float]]
"""What `measure_here` is, perhaps elsewhere."""


def batch_size_for(
    settings: Settings,
    recorded: int | None,
    plan: Plan,
    model: ModelInfo,
    execution: ExecutionConfig,
    measure: Measure | None = None,
) -> BatchSize:
    """The batch size of a run.

    Args:
        settings: with the preset applied.
        recorded: what the first run of the output folder chose; None: there was none.
        plan: what is to be made; the most common kind of image is measured.
        model: which model it is.
        execution: device, precision and compilation.
        measure: measures where the run's workers will be; None: in another process of this machine.

    Raises:
        UserError: Not even one row fits into the GPU's memory.
    """
    if settings.slots != AUTO:
        return BatchSize(int(settings.slots))
    if recorded is not None:
        return BatchSize(recorded)
    measuring = Measuring(loading_from(plan, settings.allow_http))
    plan, _ = size_rows(plan, model, _sample(len(plan.manifest)), SizeCache(), measuring)
    seconds = (measure or measure_in_subprocess)(
        model, most_common_kind(plan), execution, execution.runtime(settings)
    )
    from wanbatch.pipeline.batching.calibration import best_slots

    if not seconds:
        raise UserError("setting slots: not even one row fits into the GPU's memory; choose a smaller size")
    return BatchSize(best_slots(seconds), {slots: round(one * 1000, 3) for slots, one in seconds.items()})


def measure_in_subprocess(
    model: ModelInfo, kind: tuple[int, int, bool], execution: ExecutionConfig, runtime: Runtime
) -> dict[int, float]:
    """What `measure_here` returns, measured in another process so that nothing of it stays in the GPU's memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure_here, model, kind, execution, runtime).result()


def measure_here(
    model: ModelInfo, kind: tuple[int, int, bool], execution: ExecutionConfig, runtime: Runtime
) -> dict[int, float]:
    """Time a step of the model at several batch sizes.

    Args:
        model: which model it is.
        kind: width and height in pixels, and whether images are guided.
        execution: device, precision and compilation.
        runtime: how the model is run.

    Returns:
        Batch size -> seconds of a step and row, for the sizes that fit into memory.

    Raises:
        UserError: if the model cannot be run so, or no part of it fits into the GPU's memory.
    """
    import torch

    from wanbatch.pipeline.batching.calibration import measure
    from wanbatch.pipeline.loading.compiler import set_up_compiler
    from wanbatch.pipeline.loading.offload import free_memory
    from wanbatch.pipeline.loading.random_model import transformer_like
    from wanbatch.pipeline.loading.single_frame import check_precision, single_frame_transformer
    from wanbatch.pipeline.loading.weights import DTYPES

    folder = Path(model.folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    stride = json.loads((folder / "vae" / "config.json").read_text()).get("scale_factor_spatial", 8)
    width, height, guided = kind
    shape = height // stride, width // stride, guided
    device = torch.device(execution.device)
    eight_bits = runtime.fp8 or runtime.int8
    sizes = weight_sizes(folder, execution.dtype, eight_bits, runtime.text_fp8)
    shared = sizes, working_for(folder, 1, width * height)
    residency = plan_residency(*shared, free_memory(device)) if runtime.offload else Residency()
    check_precision(runtime, device)
    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    transformer = single_frame_transformer(transformer_like(config, device, DTYPES[execution.dtype]), runtime, device)
    return measure(transformer, device, shape, residency.beside_transformer(sizes), not residency.moves)


def most_common_kind(plan: Plan) -> tuple[int, int, bool]:
    """Width, height and whether they are guided, of most of the images whose size is known."""
    sized = ~plan.unsized[plan.images["row"].to_numpy()]
    images = plan.images.filter(pa.array(sized)) if sized.any() else plan.images
    columns = (images[name].to_pylist() for name in ("width", "height", "guidance"))
    kinds = Counter((width, height, guidance > 1) for width, height, guidance in zip(*columns, strict=True))
    return kinds.most_common(1)[0][0]


def _sample(rows: int) -> np.ndarray:
    """Indices of at most `SAMPLE` of so many rows, spread over all."""
    return np.unique(np.linspace(0, rows - 1, min(rows, SAMPLE)).astype(np.int64))
