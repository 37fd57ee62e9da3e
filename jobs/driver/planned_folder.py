"""What a run would find in its output folder, for `wanbatch plan`: checked as the run does, without writing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.jobs.config.cuda_driver import hardware_here
from wanbatch.jobs.config.hardware import FP8_CAPABILITY, INT8_CAPABILITY, Hardware, resolve_execution
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.driver.fingerprint import DEFAULTS, fingerprint_of
from wanbatch.jobs.driver.identity import of_slots
from wanbatch.jobs.driver.kept_values import warn_of_kept_values
from wanbatch.jobs.driver.resume import (
    check_output_is_another,
    folder_of_run,
    plan_for_folder,
    rows_to_change,
)
from wanbatch.jobs.planning.model_copies import find_model
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.columns import RUN_SETTINGS
from wanbatch.manifests.dataset.fingerprint import ENVIRONMENT
from wanbatch.manifests.dataset.seen_folder import SeenFolder
from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.manifests.storage.urls import is_url
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.schedules import KEEP


@dataclass(frozen=True, slots=True)
class PlannedFolder:
    """An output folder that a planned run would go on with, or begin.

    Attributes:
        out: the folder, a path or URL; it need not exist.
        again: ids in it that the run would make again.
        leaving: ids in it that the run would take out of it.
        leaving_failed: how many of these had failed.
        seen: it as it was looked at; None: no run has begun to fill it.
    """

    out: str | Path
    again: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    leaving_failed: int = 0
    seen: SeenFolder | None = None

    def as_json(self) -> dict[str, Any] | None:
        """What it holds, and who is at work in it; None: no run has begun to fill it."""
        if self.seen is None:
            return None
        done = self.seen.committed()
        counts = {"done": len(done.made), "quarantined": len(done.failed)}
        return {"out": str(self.out), **counts, "holder": self.seen.holder and dict(self.seen.holder)}


def look_at_folder(
    manifest: str | Path,
    out: str | Path,
    settings: Settings,
    planned: tuple[Plan, ModelInfo],
    rerun_changed: bool = False,
    drop_removed: bool = False,
    new_run: bool = False,
    elsewhere: bool = False,
) -> PlannedFolder:
    """Check the output folder of a run as the run itself would.

    What is not known without a device that this machine has not, on a cluster for one, or without fetching the
    weights of a model, is not compared.

    Args:
        manifest: path or URL of the manifest.
        out: the folder as the user gave it.
        settings: of the run, with the preset applied.
        planned: what the run makes, and the model.
        rerun_changed: rows that changed since they were made are made again.
        drop_removed: rows may leave that the manifest does not ask for any more.
        new_run: use `OUT-2`, `OUT-3`, ... if a run with other settings filled the folder.
        elsewhere: the run is on a cluster, as submitted ones are; else the settings and variables say so.

    Raises:
        UserError: The run would be refused: it says the same.
        MachineryError: The folder cannot be read.
    """
    check_output_is_another(manifest, out)
    if (recorded := recorded_fingerprint(out)) is None:
        SeenFolder.look_at(out, {})
        return PlannedFolder(out)
    plan, model = planned
    if not _is_elsewhere(model):
        model = find_model(settings.model, settings.revision, cache=settings.model_cache)
    elsewhere = elsewhere or _on_a_cluster(settings)
    fingerprint = _fingerprint(settings, plan, model, recorded, elsewhere)
    out, slots = folder_of_run(out, None if settings.slots == AUTO else int(settings.slots), fingerprint, new_run)
    if slots is None:  # a new folder, whose slots are to be measured
        return PlannedFolder(out)
    folder = SeenFolder.look_at(out, fingerprint(slots))
    again, leaving, failed = rows_to_change(folder, plan, None, rerun_changed, drop_removed)
    plan, _ = plan_for_folder(folder, plan, again)
    warn_of_kept_values(folder, plan, again)
    return PlannedFolder(out, frozenset(again), frozenset(leaving), failed, folder)


def compare_given_settings(out: str | Path, settings: Settings) -> bool:
    """Check an output folder against the settings of a run that say the same for every model.

    Args:
        out: path or URL of the folder.
        settings: of the run, with the preset applied.

    Returns:
        Whether a run has begun to fill the folder, so that there is more to compare where the model is known.

    Raises:
        UserError: The run would be refused.
        MachineryError: The folder cannot be read.
    """
    recorded = recorded_fingerprint(out)
    columns = {name: getattr(settings, name) for name in DEFAULTS if name in RUN_SETTINGS}
    if settings.creativity_steps == KEEP:
        del columns["creativity_steps"]
    told = {**columns, **{name: getattr(settings, name) for name in ("seed", "format", "quality")}}
    if settings.slots != AUTO:
        told["slots"] = int(settings.slots)
    given = {name: value for name, value in told.items() if value not in (None, "")}
    SeenFolder.look_at(out, {**(recorded or {}), **given})
    return recorded is not None


def device_warnings(settings: Settings) -> tuple[str, ...]:
    """What to know of a plan for a device that this machine has not, a sentence each."""
    if settings.device != "cuda" or _on_a_cluster(settings) or hardware_here(settings.device).gpus:
        return ()
    return (
        "torch sees no GPU on this machine: the plan is for a machine that has one; the same run here would be "
        "refused, and --device cpu plans for this machine",
    )


def _is_elsewhere(model: ModelInfo) -> bool:
    """Whether a model's weights would have to be fetched; its name and revision tell it from others."""
    return model.revision is not None or is_url(model.name)


def _on_a_cluster(settings: Settings) -> bool:
    from wanbatch.jobs.driver.cluster_session import cluster_address  # imports Ray

    return cluster_address(settings.address, os.environ) is not None


def _fingerprint(
    settings: Settings, plan: Plan, model: ModelInfo, recorded: Mapping[str, Any], elsewhere: bool
) -> Callable[[int], dict[str, Any]]:
    """The fingerprint of a run with so many rows denoised together, as far as it is known here."""
    weights = {"weights": recorded.get("weights")} if _is_elsewhere(model) else {}
    if not elsewhere:
        hardware = hardware_here(settings.device)
        if hardware.gpus or settings.device != "cuda":
            execution = resolve_execution(settings, hardware, model.converted)
            found = of_slots(settings, plan, model, execution, hardware)[1]
            return lambda slots: found(slots) | weights
    supposed, hardware = _as_recorded(settings, recorded)
    execution = resolve_execution(supposed, hardware, model.converted)
    engines = recorded.get("engines") if settings.engines is not None else None

    def without_environment(slots: int) -> dict[str, Any]:
        found = fingerprint_of(supposed, model, execution, slots, hardware, engines, plan.adapters.values())
        return {name: value for name, value in found.items() if name != ENVIRONMENT} | weights

    return without_environment


def _as_recorded(settings: Settings, recorded: Mapping[str, Any]) -> tuple[Settings, Hardware]:
    """The settings with a device, and hardware elsewhere: where they leave it open, what may have filled a folder."""
    device = recorded.get("device", "cuda") if settings.device == AUTO else settings.device
    has_fp8 = settings.precision != AUTO or recorded.get("precision") == "fp8"
    capability = FP8_CAPABILITY if has_fp8 else INT8_CAPABILITY
    return settings.model_copy(update={"device": device}), Hardware(int(device == "cuda"), capability)
