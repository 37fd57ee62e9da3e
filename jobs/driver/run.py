"""`wanbatch run`: checks everything, starts Ray and the workers, drives them, leaves a dataset.

Nothing is written and no worker is started before manifest, model and folder are known to be right. No image
passes through this process.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from wanbatch import __version__
from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.config.hardware import ExecutionConfig, detect_hardware, resolve_execution
from wanbatch.jobs.config.presets import with_preset
from wanbatch.jobs.config.settings import Settings, failures_allowed, image_format
from wanbatch.jobs.driver.batch_size import slots_for
from wanbatch.jobs.driver.dispatcher import POLL_SECONDS, Dispatcher, Limits
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.progress import MAKING, Progress, progress_for
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.worker.actor import WorkerSetup
from wanbatch.manifests.dataset.folder import OutputFolder, is_of_other_settings, status, write_card
from wanbatch.manifests.storage.urls import absolute
from wanbatch.pipeline.loading.registry import TINY, ModelInfo
from wanbatch.pipeline.sampling.step_cache import parse

OBJECT_STORE_BYTES = 128 << 20  # only tasks and reports pass through Ray
DEFAULTS = ("width", "height", "steps", "guidance", "shift", "sampler", "schedule", "negative_prompt")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run leaves. rows, made, quarantined: images of the manifest. made_now: by this run.

    failures: error class -> images. seconds: of each part of the command; `warm_up`, where the model was compiled, is
    inside `start`, and of the worker that took longest. model_busy: the share of the time that workers were making
    images in which they had one for the model; None if nothing was made. first_unit: the units of this run are
    numbered from it. dropped: images of units that an interruption cut off; they are made again.
    """

    out: str
    rows: int
    made: int
    quarantined: int
    failures: dict[str, int]
    made_now: int
    seconds: dict[str, float]
    interrupted: bool
    too_many_failures: bool = False
    model_busy: float | None = None
    first_unit: int = 0
    dropped: int = 0

    @property
    def pending(self) -> int:
        return self.rows - self.made - self.quarantined

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        return 3 if self.quarantined else 0


def run(
    manifest_path: str | Path,
    out: str | Path,
    settings: Settings,
    progress: Callable[[int, int], Progress] = progress_for,
    load: Callable | None = None,
    retry: Collection[str] | None = None,
    rerun_changed: bool = False,
    new_run: bool = False,
) -> Summary:
    """Make a manifest's images into a dataset folder, or go on with one.

    manifest_path, out: paths, or URLs in an object store.
    progress: makes what shows the progress, of (images in all, images done by earlier runs).
    load: what workers build their pipeline with instead of `Wan.load`; for tests of faults.
    retry: error classes whose quarantined rows are made again; empty: all of them; None: none.
    rerun_changed: make rows again that changed since they were made, instead of refusing them.
    new_run: if a run with other settings filled the folder, use `OUT-2`, `OUT-3`, ... instead of refusing.
    Raises UserError, FolderHeldError or MachineryError; what is done is kept.
    """
    clock = _Clock()
    settings = with_preset(settings)
    plan, model = prepare(manifest_path, settings)
    hardware = detect_hardware()
    chosen = resolve_execution(settings, hardware)
    slots = slots_for(settings, out, plan, model, chosen)
    fingerprint = _fingerprint(settings, model, chosen, slots.number)
    if new_run:
        out = _own_folder(out, fingerprint)
    with _stoppable() as stop, OutputFolder.open(out, fingerprint, {"wanbatch": __version__}) as folder:
        folder.require_columns(plan.manifest.passthrough.schema)
        _require_all_asked(folder, plan)
        again = _to_retry(folder, retry) | _changed(folder, plan, rerun_changed)
        folder.set_plan(
            {
                "rows": len(plan),
                "manifest": absolute(manifest_path),
                "digest": plan.manifest.digest,
                "settings": _settings_for_later(settings, model, plan),
            }
        )
        log = RunLog(folder)
        first_unit = folder.committed().next_unit
        limits = Limits(settings.unit_timeout, failures_allowed(settings, len(plan)))
        token = uuid.uuid4().hex[:12]
        dispatch = Dispatcher(plan, folder, log, token, settings.unit_rows, limits, again, settings.log_prompts)
        log.write("started", pid=os.getpid(), rows=len(plan), pending=dispatch.pending)
        if slots.milliseconds:
            log.write("calibrated", slots=slots.number, milliseconds_of_a_step_and_row=slots.milliseconds)
        clock.lap("prepare")
        busy = None
        if dispatch.pending:
            setup = WorkerSetup(
                model=model,
                out=folder.url,
                source_root=str(plan.manifest.source_root),
                allow_http=settings.allow_http,
                device=chosen.device,
                dtype=chosen.dtype,
                slots=slots.number,
                threads=settings.threads if chosen.device == "cpu" else 0,
                format=image_format(settings),
                runtime=chosen.runtime(settings, fingerprint["step_cache"]),
                examples=plan.examples(dispatch.waiting_places()) if chosen.compile else (),
            )
            busy = _make(
                dispatch,
                setup,
                settings.workers or max(1, hardware.gpus if chosen.device == "cuda" else 1),
                progress(len(plan), len(plan) - dispatch.pending),
                stop,
                clock,
                load,
            )
        _describe(folder, model, fingerprint, plan)
        interrupted = stop.asked and dispatch.pending > 0
        log.write("interrupted" if interrupted else "finished", made=dispatch.made, pending=dispatch.pending)
        return Summary(
            out=str(out),
            rows=len(plan),
            made=dispatch.made,
            quarantined=dispatch.quarantined,
            failures=dispatch.failures,
            made_now=dispatch.made - dispatch.made_before,
            seconds=clock.seconds() | ({"warm_up": round(warm, 3)} if (warm := dispatch.warm_up_seconds) else {}),
            interrupted=interrupted,
            too_many_failures=dispatch.too_many_failures,
            model_busy=busy,
            first_unit=first_unit,
            dropped=dispatch.dropped,
        )


def _own_folder(out: str | Path, fingerprint: dict[str, Any]) -> str | Path:
    """The first of OUT, OUT-2, OUT-3, ... that no run with other settings has filled; so a rerun finds its own."""
    folder, number = out, 1
    while is_of_other_settings(folder, fingerprint):
        number += 1
        numbered = f"{str(out).rstrip('/')}-{number}"
        folder = numbered if isinstance(out, str) else Path(numbered)
    return folder


def retry(
    out: str | Path, classes: Collection[str], progress: Callable[[int, int], Progress] = progress_for
) -> Summary:
    """Make the quarantined rows of a folder again, with the manifest and the settings of its last run.

    classes: only those that failed with one of these error classes; empty: all.
    Raises UserError if no row is quarantined so, and whatever `run` raises.
    """
    found = status(out)
    unknown = sorted(set(classes) - found["failures"].keys())
    if unknown or not found["failures"]:
        there = ", ".join(f"{count} {name}" for name, count in found["failures"].items()) or "none"
        raise UserError(
            f"{out}: no quarantined rows{f' of class {unknown[0]}' if unknown else ''}; there are: {there}"
        )
    plan = found["plan"]
    return run(plan["manifest"], out, Settings(**plan["settings"]), progress, retry=classes)


def _settings_for_later(settings: Settings, model: ModelInfo, plan: Plan) -> dict[str, Any]:
    """The settings as JSON, with paths that hold in any current folder."""
    caches = {"compile_cache": settings.compile_cache, "text_cache": settings.text_cache}
    places = {name: os.path.abspath(path.expanduser()) for name, path in caches.items() if path is not None}
    places |= {"model": _model_place(model), "source_root": str(plan.manifest.source_root)}
    return {**settings.model_dump(mode="json", exclude_none=True), **places}


def _model_place(model: ModelInfo) -> str:
    """`tiny` and hub ids as they are, a folder with its whole path."""
    return model.name if model.name == TINY or model.revision is not None else model.folder


def _to_retry(folder: OutputFolder, classes: Collection[str] | None) -> set[str]:
    if classes is None:
        return set()
    return {name for name, kind in folder.committed().failed.items() if not classes or kind in classes}


def _require_all_asked(folder: OutputFolder, plan: Plan) -> None:
    """Raises UserError if the folder holds images that the manifest does not ask for."""
    ids = frozenset(plan.ids())
    if others := [name for name in folder.committed().where if name not in ids]:
        raise UserError(
            f"{folder.url}: holds {len(others)} images that {plan.manifest.path} does not ask for, {min(others)!r} "
            "for one: go on with the manifest that did (it may have grown), or choose another output folder"
        )


def _changed(folder: OutputFolder, plan: Plan, allowed: bool) -> set[str]:
    """Ids whose rows ask for something else than what was made of them. Raises UserError unless allowed."""
    made = folder.committed().made
    digests = zip(plan.ids(), plan.images["digest"].to_pylist(), strict=True)
    changed = {name for name, digest in digests if made.get(name) not in (None, digest)}
    if changed and not allowed:
        raise UserError(
            f"{plan.manifest.path}: {len(changed)} rows changed since they were made, {min(changed)!r} for one: give "
            "them new ids, or make them again with --rerun-changed"
        )
    return changed


def _make(
    dispatch: Dispatcher,
    setup: WorkerSetup,
    workers: int,
    show: Progress,
    stop: _Stop,
    clock: _Clock,
    load: Callable | None,
) -> float | None:
    """Start Ray and the workers and make what is pending. Returns how busy the model was."""
    try:
        show.stage("starting")
        with _local_ray():
            crew = WorkerPool(setup, min(workers, len(dispatch.backlog.waiting)), load)
            try:
                while not (crew.any_ready or stop.asked):
                    dispatch.take(crew.poll(POLL_SECONDS))
                clock.lap("start")
                show.stage(MAKING)
                dispatch.loop(crew, show, stop)
                clock.lap("make")
                busy = dispatch.model_busy
                show.stage("stopping" if stop.asked else "done")
            finally:
                crew.close()
        clock.lap("stop")
    finally:
        show.close()
    return busy


def _describe(folder: OutputFolder, model: ModelInfo, fingerprint: dict[str, Any], plan: Plan) -> None:
    """Write the dataset card."""
    also = ("sigmas", "step_cache", "slots", "device", "precision", "compile", "threads", "format", "quality")
    settings = {name: fingerprint[name] for name in ("seed", *DEFAULTS, *also) if name in fingerprint}
    carried = plan.manifest.passthrough.schema
    write_card(folder.url, model.name, model.revision, settings, status(folder.url), carried)


def _fingerprint(settings: Settings, model: ModelInfo, chosen: ExecutionConfig, slots: int) -> dict[str, Any]:
    """What must stay the same for a folder to be gone on with: whatever decides pixels."""
    given = {name: getattr(settings, name) for name in DEFAULTS}
    return {
        "model": _model_place(model),
        "revision": model.revision,
        "weights": model.digest,
        "seed": settings.seed,
        **{name: getattr(model, name) if value is None else value for name, value in given.items()},
        "sigmas": settings.sigmas,
        "step_cache": str(parse(settings.step_cache, model.layers)),
        "slots": slots,
        "device": chosen.device,
        "precision": chosen.precision,
        "compile": chosen.compile,
        "format": settings.format,
        "quality": settings.quality,
        **({"threads": settings.threads} if chosen.device == "cpu" else {}),
    }


class _Clock:
    """Seconds of each part of the command."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def seconds(self) -> dict[str, float]:
        total = time.perf_counter() - self.begin
        return {name: round(value, 3) for name, value in {**self.laps, "total": total}.items()}


class _Stop:
    """Becomes true when the user or the system asks the run to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self, *_: object) -> None:
        """At once if it is asked a second time."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM only set a flag, so that no unit is cut off while it is published."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _local_ray() -> Iterator[None]:
    """A Ray of our own on this machine, or the one that this process is connected to already."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except Exception as error:  # of many kinds: no disk, no shared memory, no port, no time
        raise MachineryError(f"Ray did not start: {error}") from error
    for number, handler in handlers.items():  # Ray puts its own in place
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
