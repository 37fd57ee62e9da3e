"""`wanbatch run`: checks everything, starts Ray and the workers, drives them, leaves a dataset.

Nothing is written and no worker is started before manifest, model and folder are known to be right; Ray starts
earlier (`ray_ahead.py`). No image passes through this process.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from wanbatch import __version__
from wanbatch.errors import UserError, WanbatchError
from wanbatch.jobs.config.settings import Settings, recorded_settings
from wanbatch.jobs.driver.cluster_session import cluster_address
from wanbatch.jobs.driver.dispatcher import Dispatcher
from wanbatch.jobs.driver.fingerprint import DEFAULTS
from wanbatch.jobs.driver.generation import RunControls, make_images
from wanbatch.jobs.driver.interruption import stop_on_signals
from wanbatch.jobs.driver.kept_values import warn_of_kept_values
from wanbatch.jobs.driver.ray_ahead import RayAhead
from wanbatch.jobs.driver.ray_session import ensure_ray_can_start
from wanbatch.jobs.driver.resume import rows_to_change, warn_of_other_decoding
from wanbatch.jobs.driver.run_context import RunContext, prepare_run
from wanbatch.jobs.driver.site import site_finder
from wanbatch.jobs.driver.source_sizing import size_what_is_pending
from wanbatch.jobs.driver.stopwatch import Stopwatch
from wanbatch.jobs.planning.adapters import settings_on_card
from wanbatch.jobs.planning.long_prompts import notes_on_long_prompts
from wanbatch.jobs.reporting.parts_progress import PartsProgress
from wanbatch.jobs.reporting.progress import Progress, progress_for
from wanbatch.jobs.reporting.report.after_run import is_worth_waiting, report_after_run
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.reporting.summary import Summary
from wanbatch.jobs.worker.context import LoadPipeline
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import RUN, status

_log = logging.getLogger(__name__)

PRELOAD = "wanbatch.jobs.worker.preload"  # by name: this process has no use for what it imports
NOTED_ON_CARD = ("sigmas", "step_cache", "slots", "device", "precision", "compile", "threads", "format", "quality")


def run(
    manifest_path: str | Path,
    out: str | Path,
    settings: Settings,
    progress: Callable[[int, int], Progress] = progress_for,
    load: LoadPipeline | None = None,
    retry: Collection[str] | None = None,
    rerun_changed: bool = False,
    drop_removed: bool = False,
    new_run: bool = False,
    stop: threading.Event | None = None,
) -> Summary:
    """Make a manifest's images into a dataset folder, or go on with one.

    In the main thread Ctrl-C and SIGTERM stop the run; in any other one, only `stop` does.

    Args:
        manifest_path: path of the manifest, or URL in an object store.
        out: path or URL of the output folder.
        settings: as the user gave them.
        progress: makes what shows the progress, of (images in all, images done by earlier runs).
        load: what workers build their pipeline with, instead of `Wan.load`; for tests of faults.
        retry: error classes whose quarantined rows are made again; empty: all of them; None: none.
        rerun_changed: make rows again that changed since they were made, instead of refusing them.
        drop_removed: take rows out of the dataset that the manifest does not ask for any more, instead of refusing.
        new_run: if a run with other settings filled the folder, use `OUT-2`, `OUT-3`, ... instead of refusing.
        stop: once it is set, the run ends as if it was interrupted.

    Raises:
        UserError: Manifest, settings, model or folder are not right; nothing was made, and Ray does not run any more.
        FolderHeldError: Another run writes to the folder.
        MachineryError: Workers, disk or cluster failed; what is done is kept.
    """
    stopwatch = Stopwatch()
    address = cluster_address(settings.address, os.environ)
    if address is None:
        ensure_ray_can_start()
    with ExitStack() as stack:
        find_site, ray = site_finder(address, stack), stack.enter_context(RayAhead(None if load else PRELOAD))
        begin = partial(ray.start_for, out=out, here=address is None)
        context = prepare_run(manifest_path, out, settings, new_run, find_site, stopwatch.steps, begin)
        for message in context.warnings:
            _log.warning("%s", message)
        stop_request = stack.enter_context(stop_on_signals(stop))
        folder = stack.enter_context(OutputFolder.open(context.out, context.fingerprint, {"wanbatch": __version__}))
        again, leaving, failed = rows_to_change(folder, context.plan, retry, rerun_changed, drop_removed)
        context = _go_on(folder, context, again, leaving)
        context = replace(context, plan=size_what_is_pending(folder, context, again, stop_request))
        summary = _fill(folder, context, again, RunControls(progress, load, stop_request, stopwatch, ray))
        return replace(summary, removed=len(leaving), removed_failed=failed)


@contextmanager
def _failure_in_log(log: RunLog) -> Iterator[None]:
    """Note an error that ends a run: what it prints may be lost with the machine that it ran on.

    Errors that are not ours are bugs, whose texts may hold anything: of these only the class is noted.
    """
    try:
        yield
    except Exception as error:
        ours = isinstance(error, WanbatchError)
        with suppress(Exception):  # it may be the disk of the log that failed
            log.write(
                "failed",
                cause=str(error) if ours else type(error).__name__,
                exit_code=getattr(error, "exit_code", WanbatchError.exit_code),
            )
        raise


def _go_on(folder: OutputFolder, context: RunContext, again: set[str], leaving: set[str]) -> RunContext:
    """Take out of a folder what leaves it, give it the columns of a run and its plan, tell what it keeps of before.

    Returns:
        The run with the columns of the folder.
    """
    context, schema = context.going_on_with(folder, again)
    warn_of_kept_values(folder, context.plan, again)
    if leaving:
        with PartsProgress("rows taken out of") as told:
            folder.remove(leaving, told)
    with PartsProgress("columns changed in") as told:
        folder.change_columns(schema, told)
    folder.set_plan(context.plan_note())
    return context


def retry(
    out: str | Path, classes: Collection[str], progress: Callable[[int, int], Progress] = progress_for
) -> Summary:
    """Make the quarantined rows of a folder again, with the manifest and the settings of its last run.

    Args:
        out: path or URL of the output folder.
        classes: only rows that failed with one of these error classes; empty: all.
        progress: makes what shows the progress; see `run`.

    Raises:
        UserError: No row is quarantined so.

    Raises whatever `run` raises, too.
    """
    found = status(out)
    unknown = sorted(set(classes) - found["failures"].keys())
    if unknown or not found["failures"]:
        there = ", ".join(f"{count} {name}" for name, count in found["failures"].items()) or "none"
        raise UserError(
            f"{out}: no quarantined rows{f' of class {unknown[0]}' if unknown else ''}; there are: {there}"
        )
    plan = found["plan"]
    settings = recorded_settings(plan["settings"], f"{str(out).rstrip('/')}/{RUN}")
    return run(plan["manifest"], out, settings, progress, retry=classes)


def _fill(folder: OutputFolder, context: RunContext, again: set[str], controls: RunControls) -> Summary:
    """Make what an open folder lacks, and say what came of it."""
    log = RunLog(folder)
    with _failure_in_log(log):
        return _make_what_lacks(folder, log, context, again, controls)


def _make_what_lacks(
    folder: OutputFolder, log: RunLog, context: RunContext, again: set[str], controls: RunControls
) -> Summary:
    folder.keep_card(_card_content(context))
    first_unit = folder.committed().next_unit
    dispatcher = Dispatcher(context.plan, folder, log, context.dispatch_options(uuid.uuid4().hex[:12], again))
    counters = dispatcher.counters
    log.write("started", pid=os.getpid(), rows=len(context.plan), pending=counters.pending)
    for message in context.warnings:
        log.write("warning", message=message)
    for adapter in context.plan.adapters.values():
        log.write("adapter", **adapter.describe())
    if milliseconds := context.batch_size.milliseconds:
        log.write("calibrated", slots=context.batch_size.slots, milliseconds_of_a_step_and_row=milliseconds)
    if counters.pending:
        warn_of_other_decoding(folder, context.plan, context.fingerprint, log)
    controls.stopwatch.lap("prepare")
    controls.stopwatch.steps.end("folder")
    busy = make_images(context, folder.url, dispatcher, controls) if counters.pending else None
    folder.settle_card()
    interrupted = controls.stop() and counters.pending > 0
    stopped_by = None if interrupted else dispatcher.stopped_by
    warm_up = {"warm_up": round(counters.warm_up_seconds, 3)} if counters.warm_up_seconds else {}
    summary = Summary(
        out=str(context.out),
        rows=len(context.plan),
        made=counters.made,
        quarantined=counters.quarantined,
        failures=dispatcher.failures,
        made_now=counters.made_now,
        seconds=controls.stopwatch.seconds() | warm_up,
        interrupted=interrupted,
        stopped_by=stopped_by,
        stop_cause=dispatcher.stop_cause if stopped_by else None,
        model_busy=busy,
        slot_use=counters.slot_use,
        moves=counters.moves,
        move_seconds=counters.move_seconds,
        first_unit=first_unit,
        dropped=dispatcher.dropped,
        drained=dispatcher.drained,
        source_notes=counters.source_notes,
        adapters=tuple(adapter.words() for adapter in context.plan.adapters.values()),
        warnings=context.warnings,
    )
    log.write(summary.ended, **summary.for_log)
    if context.settings.report == "on" and is_worth_waiting(interrupted, counters.made):
        report = report_after_run(context.out, context.plan.manifest)
        summary = replace(summary, report=report, seconds=controls.stopwatch.seconds() | warm_up)
    return summary


def _card_content(context: RunContext) -> CardContent:
    """What the dataset card says of a run."""
    names = ("seed", *DEFAULTS, *NOTED_ON_CARD)
    settings = {name: context.fingerprint[name] for name in names if name in context.fingerprint}
    settings |= settings_on_card(context.plan.adapters, context.settings)
    passthrough = context.plan.manifest.passthrough.schema
    later, notes = context.plan.later, notes_on_long_prompts(context.plan)
    return CardContent(context.model.name, context.model.revision, settings, passthrough, later, notes)
