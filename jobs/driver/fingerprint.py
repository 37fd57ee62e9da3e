"""A run's fingerprint: what must stay the same for an output folder to be gone on with."""

from __future__ import annotations

from typing import Any

from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import Settings
from wanbatch.pipeline.loading.registry import TINY, ModelInfo
from wanbatch.pipeline.sampling.schedules import KEEP
from wanbatch.pipeline.sampling.step_cache import parse

DEFAULTS = ("width", "height", "steps", "guidance", "shift", "sampler", "schedule", "negative_prompt")


def fingerprint_of(settings: Settings, model: ModelInfo, chosen: ExecutionConfig, slots: int) -> dict[str, Any]:
    """Whatever decides pixels, as JSON values.

    Args:
        settings: the run's, with its preset applied.
        model: which model it is.
        chosen: device, precision and compilation, as resolved.
        slots: rows denoised together.
    """
    given = {name: getattr(settings, name) for name in DEFAULTS}
    return {
        "model": model_location(model),
        "revision": model.revision,
        "weights": model.digest,
        "seed": settings.seed,
        **{name: getattr(model, name) if value is None else value for name, value in given.items()},
        "sigmas": settings.sigmas,
        "creativity_steps": None if settings.creativity_steps == KEEP else settings.creativity_steps,
        "step_cache": str(parse(settings.step_cache, model.layers)),
        "slots": slots,
        "device": chosen.device,
        "precision": chosen.precision,
        "compile": chosen.compile,
        "format": settings.format,
        "quality": settings.quality,
        **({"threads": settings.threads} if chosen.device == "cpu" else {}),
    }


def model_location(model: ModelInfo) -> str:
    """`tiny` and hub ids as they are, a folder with its whole path."""
    return model.name if model.name == TINY or model.revision is not None else model.folder
