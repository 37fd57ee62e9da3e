"""How many rows are denoised together in a run: as set, as an earlier run of the folder measured, or measured now.

The number is part of the run's fingerprint, because it decides the last bits of the pixels; so it is measured
once for a folder.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.dataset.folder import status
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Slots:
    """number: rows in a batch. milliseconds: batch -> of a step and row, if they were measured now."""

    number: int
    milliseconds: dict[int, float] = field(default_factory=dict)


def slots_for(settings: Settings, out: str | Path, plan: Plan, model: ModelInfo, chosen: ExecutionConfig) -> Slots:
    """The number of slots of a run into a folder. Raises UserError if not even one row fits."""
    if settings.slots != AUTO:
        return Slots(int(settings.slots))
    if (recorded := _recorded(out)) is not None:
        return Slots(recorded)
    seconds = _in_a_process_of_its_own(model, plan, chosen, chosen.runtime(settings))
    from wanbatch.pipeline.batching.calibration import best_slots

    if not seconds:
        raise UserError("setting slots: not even one row fits into the GPU's memory; choose a smaller size")
    return Slots(best_slots(seconds), {slots: round(one * 1000, 3) for slots, one in seconds.items()})


def _recorded(out: str | Path) -> int | None:
    """What the folder's first run chose; None if there is no such folder yet."""
    try:
        return int(status(out)["fingerprint"]["slots"])
    except (UserError, KeyError):
        return None


def _in_a_process_of_its_own(
    model: ModelInfo, plan: Plan, chosen: ExecutionConfig, runtime: Runtime
) -> dict[int, float]:
    """Measure there, so that nothing of it stays in the GPU's memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure_here, model, _commonest(plan), chosen, runtime).result()


def measure_here(
    model: ModelInfo, size: tuple[int, int, bool], chosen: ExecutionConfig, runtime: Runtime
) -> dict[int, float]:
    """Seconds of a step and row by batch size. size: width and height in pixels, guided or not."""
    import torch

    from wanbatch.pipeline.batching.calibration import measure
    from wanbatch.pipeline.loading.random_model import transformer_like
    from wanbatch.pipeline.loading.runtime import set_up_compiler
    from wanbatch.pipeline.loading.single_frame import single_frame_transformer
    from wanbatch.pipeline.loading.weights import DTYPES

    folder = Path(model.folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    stride = json.loads((folder / "vae" / "config.json").read_text()).get("scale_factor_spatial", 8)
    files = [path for path in folder.rglob("*.safetensors") if path.parent.name != "transformer"]
    reserved = sum(path.stat().st_size for path in files)
    width, height, guided = size
    shape = height // stride, width // stride, guided
    device = torch.device(chosen.device)
    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    transformer = transformer_like(config, device, DTYPES[chosen.dtype])
    return measure(single_frame_transformer(transformer, runtime, device), device, shape, reserved)


def _commonest(plan: Plan) -> tuple[int, int, bool]:
    """(width, height, guided) of most images."""
    columns = (plan.images[name].to_pylist() for name in ("width", "height", "guidance"))
    kinds = Counter((width, height, guidance > 1) for width, height, guidance in zip(*columns, strict=True))
    return kinds.most_common(1)[0][0]
