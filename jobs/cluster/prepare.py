"""What is asked, from what the user gave: settings of this machine, a manifest that is read here if it can be."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cluster.local_sources import folder_of_the_cluster
from wanbatch.jobs.cluster.submission import Submission, flags_of, needed_paths, variables_of
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.planned_folder import compare_given_settings, look_at_folder
from wanbatch.jobs.driver.resume import check_output_is_another
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import read_plan
from wanbatch.jobs.planning.presets import with_preset
from wanbatch.manifests.dataset.status import committed_rows, status
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.storage.urls import absolute, is_url, kind_of
from wanbatch.pipeline.loading.registry import TINY, ModelInfo

EARLIER_RUNS = ("--rerun-changed", "--drop-removed", "--new-run")
"""Flags of a run that say what is done about earlier ones."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission, and what the user should know of it. manifest: as it was read; None if it cannot be from here."""

    submission: Submission
    manifest: Manifest | None
    notes: tuple[str, ...]


def prepare_submission(
    manifest: str | Path, out: str | Path, settings: Settings, flags: Sequence[str] = (), env: Collection[str] = ()
) -> Prepared:
    """Make a submission of what the user gave, and check what can be checked on this machine.

    Args:
        manifest: path or URL.
        out: likewise.
        settings: from flags, variables and the file of this machine.
        flags: further ones of `wanbatch run`.
        env: variables for the job, `NAME` or `NAME=VALUE`.

    Raises:
        UserError: With everything that is wrong with a manifest that can be read from here; or the output folder can
            be, and the run would refuse it.
    """
    check_output_is_another(manifest, out)
    variables, notes = variables_of(env, os.environ)
    settings_of_run = with_preset(settings)
    found, planned, unseen = _read(manifest, settings_of_run)
    if unseen is not None:
        notes.append(f"{unseen}: cannot be read from this machine, so that the rows are checked on the cluster first")
    elif found is not None:
        notes += found.all_warnings
    notes += _notes_on_folder(manifest, out, settings_of_run, planned, flags)
    submission = Submission(
        manifest=absolute(manifest),
        out=absolute(out),
        flags=(*flags_of(settings), *flags),
        content="" if found is None else found.digest,
        needed=needed_paths(settings),
        variables=variables,
        drain_seconds=settings.drain_seconds,
    )
    return Prepared(submission, found, tuple(notes))


class _Read(NamedTuple):
    """A manifest, what is made of it if the model is here, too; or what cannot be seen from here."""

    manifest: Manifest | None = None
    planned: tuple[Plan, ModelInfo] | None = None
    unseen: str | None = None


def _notes_on_folder(
    manifest: str | Path,
    out: str | Path,
    settings: Settings,
    planned: tuple[Plan, ModelInfo] | None,
    flags: Collection[str],
) -> list[str]:
    """Check an output folder as its run will, as far as it can be here, and say what is left to the cluster.

    Raises:
        UserError: The run would be refused.
    """
    left = f"{out}: is not seen from this machine, so that what it holds is compared on the cluster first"
    if not output_is_seen(absolute(out)):
        return [left]
    rerun_changed, drop_removed, new_run = (flag in flags for flag in EARLIER_RUNS)
    try:
        if planned is not None:
            look_at_folder(manifest, out, settings, planned, rerun_changed, drop_removed, new_run, elsewhere=True)
        elif not new_run and compare_given_settings(out, settings):
            return [f"{out}: what of it depends on manifest and model is compared on the cluster first"]
    except MachineryError:
        return [left]
    return []


def output_is_seen(out: str) -> bool:
    """Whether this machine can see an output folder: one in a store, or one below a folder that is there."""
    if is_url(out):
        try:
            status(out)
        except UserError as error:  # there is none yet, or the store's package is missing
            return "pip install" not in str(error)
        except MachineryError:  # no credentials, no connection
            return False
        return True
    above = Path(out)
    while not above.is_dir():
        above = above.parent
    return above != Path(above.anchor)


def _read(manifest: str | Path, settings: Settings) -> _Read:
    """Read a manifest, as far as it can be here. settings: with the preset applied."""
    folder = folder_of_the_cluster(manifest, settings)
    try:
        there = kind_of(absolute(manifest))
    except OSError:  # a store without credentials for this machine
        return _Read(unseen=str(manifest))
    if there is None:
        if is_url(manifest) or not os.path.isabs(manifest):
            raise UserError(
                f"{manifest}: does not exist: give an existing manifest, or the path that every node sees"
            )
        return _Read(unseen=str(manifest))
    if folder is not None:
        return _Read(unseen=folder)
    if settings.model == TINY or os.path.isdir(settings.model):
        planned = read_plan(manifest, settings, weights=False)
        return _Read(planned[0].manifest, planned)
    found = read_manifest(
        manifest,
        settings.source_root,
        settings.allow_http,
        source_fence=settings.source_fence,
        renames=settings.map,
        strict=settings.strict,
        prompt_of_run=settings.prompt is not None,
        committed_rows=committed_rows,
        split=settings.split,
    )
    return _Read(found)
