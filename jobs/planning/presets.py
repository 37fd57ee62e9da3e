"""What the presets choose of steps, sampler and step cache, for the models that they are known for.

Like the precision (`config/hardware.py`) this holds where no setting says otherwise; rows' own settings win over all.
`exact` chooses nothing: the model's own settings, every block at every step. `fast` takes what a merged adapter for
few steps was made for, if there is one.
"""

from __future__ import annotations

from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.config.adapter_texts import registered
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.adapter_copies import local_adapter
from wanbatch.jobs.planning.adapters import known_adapters
from wanbatch.pipeline.adapters.few_step import FewStepUse
from wanbatch.pipeline.adapters.header import read_header
from wanbatch.pipeline.loading.registry import TINY, ModelInfo, find

# Found by `wanbatch tune` on 96 rows of the small world (benchmarks/tuning_rows.py) on an H200, in fp32; its files
# are benchmarks/results/tune-tiny-*.toml: `balanced` with `--budget "psnr>=40"`, `fast` with `--budget "psnr>=35"
# --budget judge`. On other captions: docs/quality.md.
_TINY: dict[str, dict[str, Any]] = {
    "balanced": {"sampler": "dpmpp_2m", "steps": 28, "step_cache": "taylor:interval=2"},
    "fast": {"sampler": "unipc1", "steps": 18, "step_cache": "taylor:interval=2"},
}
# From the literature (docs/step-caches.md), which reports 1.5 to 2.8 times at 50 steps. Quality not measured here.
_TI2V_5B: dict[str, dict[str, Any]] = {
    "balanced": {"step_cache": "taylor:interval=2"},
    "fast": {"step_cache": "taylor:interval=3"},
}
SAID_BY_SIGMAS = ("steps", "schedule")  # explicit noise levels stand for both
FEWEST_STEPS_CACHED = 10
"""With fewer steps no preset skips any: distilled models need each of theirs, and the levels lie too far apart."""


def recipe(preset: str, model: ModelInfo) -> dict[str, Any]:
    """Return the settings that a preset chooses for a model; none for models that it is not known for."""
    if model.name == TINY:
        return _TINY.get(preset, {})
    if (model.layers, model.multiple) == (30, 32):  # TI2V-5B: no other Wan has 30 blocks and a VAE of stride 16
        return _TI2V_5B.get(preset, {})
    return {}


def with_preset(settings: Settings) -> Settings:
    """Return settings in which the preset has filled in what was not given."""
    if settings.preset == "exact":
        return settings
    model = find(settings.model, settings.revision, weights=False)
    chosen = (_of_few_step_adapter(settings, model) if settings.preset == "fast" else {}) or recipe(
        settings.preset, model
    )
    given = settings.model_fields_set | (set(SAID_BY_SIGMAS) if settings.sigmas is not None else set())
    filled = {name: value for name, value in chosen.items() if name not in given}
    if _steps(settings, filled, model) < FEWEST_STEPS_CACHED:
        filled.pop("step_cache", None)
    return settings.model_copy(update=filled)


def _of_few_step_adapter(settings: Settings, model: ModelInfo) -> dict[str, Any]:
    """The settings that the merged adapter for few steps was made for; none without one.

    Raises:
        UserError: Two of them ask for different ones.
    """
    known, found = known_adapters(settings, model), {}
    for name in settings.merge or ():
        if name in known:  # `check_merged` says so of others
            file = local_adapter(registered(known[name]))
            use = FewStepUse.of(file, read_header(file).metadata)
            if use is not None:
                found[name] = use
    if len(set(found.values())) > 1:
        raise UserError(
            f"--preset fast: the merged adapters {' and '.join(map(repr, found))} were made for different settings: "
            f"merge one of them, or give steps, sampler and guidance yourself without --preset"
        )
    return next((use.settings() for use in found.values()), {})


def _steps(settings: Settings, filled: dict[str, Any], model: ModelInfo) -> int:
    """Steps of rows that do not set their own."""
    if settings.sigmas is not None:
        return len(settings.sigmas)
    of_settings: int | None = filled.get("steps", settings.steps)
    return model.steps if of_settings is None else of_settings
