"""What a run is: its plan, its model, and everything that is decided before the output folder is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wanbatch.jobs.config.hardware import ExecutionConfig, resolve_execution
from wanbatch.jobs.config.settings import AUTO, Settings, failures_allowed, image_format, signing_files
from wanbatch.jobs.driver.batch_size import BatchSize, batch_size_for
from wanbatch.jobs.driver.cluster_nodes import Placement
from wanbatch.jobs.driver.cpu_workers import with_model
from wanbatch.jobs.driver.dispatcher import DispatchOptions
from wanbatch.jobs.driver.engine_choice import ChosenEngines
from wanbatch.jobs.driver.identity import of_slots
from wanbatch.jobs.driver.resume import check_output_is_another, folder_of_run, plan_for_folder, settings_for_later
from wanbatch.jobs.driver.seen_source import seen_source
from wanbatch.jobs.driver.site import FindSite, Site, this_machine
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import read_plan
from wanbatch.jobs.planning.presets import with_preset
from wanbatch.jobs.planning.units import Image
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.start_steps import StartSteps
from wanbatch.manifests.dataset.fingerprint import ENVIRONMENT
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.storage.urls import absolute
from wanbatch.pipeline.loading.registry import ModelInfo


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run is.

    Attributes:
        manifest: the manifest's path, absolute, or URL.
        out: the output folder, a path or URL.
        settings: with the preset applied.
        plan: all images of the manifest; what follows the size of a source has it only once that was looked at.
        model: which model makes them.
        execution: device, precision and compilation.
        batch_size: how many rows are denoised together.
        workers: how many there are at most; on a cluster that grows, at the start.
        placement: where they may be.
        fingerprint: what must stay the same for the output folder to be gone on with.
        engines: that run parts of the model.
    """

    manifest: str
    out: str | Path
    settings: Settings
    plan: Plan
    model: ModelInfo
    execution: ExecutionConfig
    batch_size: BatchSize
    workers: int
    placement: Placement
    fingerprint: dict[str, Any]
    engines: ChosenEngines

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the manifest has no effect, and what others will not find of the output, a sentence each."""
        return (*self.plan.all_warnings, *_pattern_warning(self.out), *self.engines.warnings)

    def going_on_with(self, folder: OutputFolder, again: set[str]) -> tuple[RunContext, pa.Schema]:
        """The same run, with columns that the folder's data parts can have, too; and these parts' schema.

        The first run of a folder has all of `columns.ALWAYS`; a folder that was begun without one goes on so.

        Args:
            folder: open.
            again: ids in it that are made again.

        Raises:
            UserError: The folder has other columns than the manifest, and values of one or the other would be lost.
        """
        plan, schema = plan_for_folder(folder, self.plan, again)
        return replace(self, plan=plan), schema

    def plan_note(self) -> dict[str, Any]:
        """What the output folder notes of the plan, for `status` and `retry`."""
        return {
            "rows": len(self.plan),
            "manifest": self.manifest,
            "digest": self.plan.manifest.digest,
            "settings": settings_for_later(self.settings, self.model, self.plan),
        }

    def dispatch_options(self, run_token: str, again: set[str]) -> DispatchOptions:
        """How units are cut and when to give up. again: ids that are made again."""
        return DispatchOptions(
            run_token=run_token,
            unit_rows=self.settings.unit_rows,
            slots=self.batch_size.slots,
            workers=self.workers,
            unit_seconds=self.settings.unit_timeout,
            max_failures=failures_allowed(self.settings, len(self.plan)),
            circuit_breaker=self.settings.circuit_breaker == "on",
            drain_seconds=self.settings.drain_seconds,
            again=again,
            log_prompts=self.settings.log_prompts,
        )

    def worker_setup(
        self, out: str, examples: tuple[Image, ...], pending: np.ndarray, workers_on_host: int
    ) -> WorkerSetup:
        """What workers are started with.

        Args:
            out: the output folder, a path or URL.
            examples: images like those that will be made.
            pending: indices, in the plan, of the images that will be made.
            workers_on_host: how many workers share a host at most.
        """
        settings, execution = self.settings, self.execution
        return WorkerSetup(
            model=self.model,
            out=out,
            source_root=str(self.plan.manifest.source_root),
            source_fence=str(self.plan.manifest.source_fence),
            embed_settings=settings.embed_settings,
            signing=signing_files(settings),
            allow_http=settings.allow_http,
            device=execution.device,
            dtype=execution.dtype,
            slots=self.batch_size.slots,
            threads=settings.threads,
            format=image_format(settings),
            runtime=execution.runtime(settings, self.fingerprint["step_cache"]),
            examples=examples,
            seen_source=seen_source(self.plan, pending),
            workers_on_host=workers_on_host,
            device_kind=None if settings.mixed_devices else self.fingerprint[ENVIRONMENT]["device_name"],
            on_cluster=self.placement.on_cluster,
            model_cache=None if settings.model_cache is None else str(settings.model_cache),
            engines=self.engines.choice,
            hearing=self.plan.hearing,
            adapters=tuple(self.plan.adapters.values()),
        )


def _pattern_warning(out: str | Path) -> Iterator[str]:
    where = absolute(out)
    if found := sorted({character for character in where if character in "*?["}):
        yield (
            f"{out}: has {' and '.join(found)} in its path, which datasets, polars and duckdb take for patterns, so "
            "that they will not find the dataset there: choose a path without, or move the folder afterwards"
        )


def _nothing_begins(settings: Settings) -> None:
    pass


def prepare_run(
    manifest: str | Path,
    out: str | Path,
    settings: Settings,
    new_run: bool = False,
    find_site: FindSite = this_machine,
    steps: StartSteps | None = None,
    seems_right: Callable[[Settings], None] = _nothing_begins,
) -> RunContext:
    """Read and check everything that a run needs to know before it writes or starts anything.

    Args:
        manifest: path or URL of the manifest.
        out: the output folder as the user gave it, whose earlier runs decide the batch size if it is `auto`.
        settings: as the user gave them.
        new_run: whether to use `OUT-2`, `OUT-3`, ... if a run with other settings filled the folder.
        find_site: finds where the workers will be, once manifest and model are known to be right.
        steps: of the start that this is a part of.
        seems_right: told the settings, with the preset applied, once a long manifest's first rows are known to be
            right, before the rest is read; and once all of it and the model are.

    Raises:
        UserError: Manifest, model or settings are not right.
        MachineryError: A store does not answer.
    """
    check_output_is_another(manifest, out)
    settings, steps = with_preset(settings), StartSteps() if steps is None else steps
    plan, model = read_plan(manifest, settings, seems_right=partial(seems_right, settings))
    steps.end("manifest and model")
    seems_right(settings)
    site = find_site(settings, out)
    steps.end("device")
    execution = resolve_execution(settings, site.hardware, model.converted)
    engines, fingerprint = of_slots(settings, plan, model, execution, site.hardware)
    slots = None if settings.slots == AUTO else int(settings.slots)
    out, recorded = folder_of_run(out, slots, fingerprint, new_run)
    batch_size = batch_size_for(settings, recorded, plan, model, execution, site.measure)
    return RunContext(
        manifest=absolute(manifest),
        out=out,
        settings=settings,
        plan=plan,
        model=model,
        execution=execution,
        batch_size=batch_size,
        workers=_workers(site, settings, model, plan, execution),
        placement=site.placement,
        fingerprint=fingerprint(batch_size.slots),
        engines=engines(batch_size.slots).checked_for(plan),
    )


def _workers(site: Site, settings: Settings, model: ModelInfo, plan: Plan, execution: ExecutionConfig) -> int:
    """How many there can be, which on this machine's processors its memory limits."""
    if site.placement.on_cluster:
        return site.workers
    return with_model(site.workers, settings, model, plan, execution)
