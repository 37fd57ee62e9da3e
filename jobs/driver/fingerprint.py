"""A run's fingerprint: what must stay the same for an output folder to be gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.adapters import NamedAdapter
from wanbatch.jobs.planning.plan import default_of
from wanbatch.manifests.columns import COLUMNS, LATER, RUN_SETTINGS, SET_LATER
from wanbatch.manifests.dataset.fingerprint import ENVIRONMENT, MIXED_DEVICES, SOURCE_DECODING
from wanbatch.manifests.sources.decoding import decoding_versions
from wanbatch.manifests.storage.urls import is_url
from wanbatch.pipeline.loading.registry import TINY, ModelInfo
from wanbatch.pipeline.loading.residency import OFFLOADED
from wanbatch.pipeline.loading.runtime import MERGED
from wanbatch.pipeline.sampling.step_cache import parse

DEFAULTS = tuple(column.name for column in COLUMNS if column.pixels and column.name in RUN_SETTINGS)
"""Settings of columns that decide pixels."""


def fingerprint_of(
    settings: Settings,
    model: ModelInfo,
    chosen: ExecutionConfig,
    slots: int,
    hardware: Hardware,
    engines: Mapping[str, str] | None = None,
    adapters: Iterable[NamedAdapter] = (),
) -> dict[str, Any]:
    """Whatever decides pixels and is known before workers start, as JSON values.

    What release 0.1.0 did not know (`columns.LATER`, `columns.SET_LATER`) is left out where the run does not set it,
    so that it changes no fingerprint.

    Args:
        settings: the run's, with its preset applied.
        model: which model it is.
        chosen: device, precision and compilation, as resolved.
        slots: rows denoised together.
        hardware: what the model runs on.
        engines: digests of those that run parts of the model, by part.
        adapters: of the run. Those that are merged are part of it; those of rows are part of the rows' digests.
    """
    merged = [{"name": one.name, "digest": one.file.digest, "weight": one.weight} for one in adapters if one.merged]
    resolved = {name: default_of(name, model, settings) for name in DEFAULTS}
    unset = {name for name in (*LATER, *SET_LATER) if resolved.get(name) in (None, "")}
    return {
        "model": model_location(model),
        "revision": model.revision if model.converted is None else model.converted.revision,
        "weights": model.digest if model.converted is None else model.converted.weights_on(chosen.device),
        "seed": settings.seed,
        **{name: value for name, value in resolved.items() if name not in unset},
        "step_cache": str(parse(settings.step_cache, model.layers)),
        "slots": slots,
        "device": chosen.device,
        "precision": chosen.precision,
        **({"text_precision": settings.text_precision} if settings.text_precision != AUTO else {}),
        **({"row_adapters": MERGED} if settings.row_adapters == MERGED else {}),
        "compile": chosen.compile,
        "format": settings.format,
        "quality": settings.quality,
        **({"threads": settings.threads} if chosen.device == "cpu" else {}),
        **({"engines": dict(engines)} if engines else {}),
        **({MIXED_DEVICES: True} if settings.mixed_devices else {}),
        **({"merged_adapters": merged} if merged else {}),
        SOURCE_DECODING: decoding_versions(),
        ENVIRONMENT: {"torch": hardware.torch, "device_name": hardware.device_name(chosen.device)},
    }


def backends_in_environment(backends: Mapping[str, str | None]) -> dict[str, Any]:
    """What workers say of how each stage is computed, as part of the environment of a fingerprint.

    Where a part of the model is kept while another works changes no bits.
    """
    return {"backends": {stage: name and name.removesuffix(OFFLOADED) for stage, name in backends.items()}}


def model_location(model: ModelInfo) -> str:
    """`tiny`, hub ids and URLs as they are, a folder with its whole path; of a converted model, its source's."""
    if model.converted is not None:
        return model.converted.source
    named = model.name == TINY or model.revision is not None or is_url(model.name)
    return model.name if named else model.folder
