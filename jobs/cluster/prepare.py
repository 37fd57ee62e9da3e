"""What is asked, from what the user gave: settings of this machine, a manifest that is read here if it can be."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.jobs.cluster.submission import Submission, flags_of, needed_paths, variables_of
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.resume import check_output_is_another
from wanbatch.jobs.planning.preparation import read_plan
from wanbatch.jobs.planning.presets import with_preset
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.storage.urls import absolute, is_url, kind_of
from wanbatch.pipeline.loading.registry import TINY


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
        UserError: With everything that is wrong with a manifest that can be read from here.
    """
    check_output_is_another(manifest, out)
    variables, notes = variables_of(env, os.environ)
    found, unseen = _read(manifest, settings)
    if unseen is not None:
        notes.append(f"{unseen}: cannot be read from this machine, so that its rows are checked on the cluster first")
    elif found is not None:
        notes += found.all_warnings
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


def _read(manifest: str | Path, settings: Settings) -> tuple[Manifest | None, str | None]:
    """The manifest; or None, and what cannot be seen from here."""
    roots = [root for root in (settings.source_root, settings.source_fence) if root is not None and not is_url(root)]
    if missing := next((root for root in roots if not os.path.isdir(root)), None):
        return None, str(missing)
    try:
        there = kind_of(absolute(manifest))
    except OSError:  # a store without credentials for this machine
        return None, str(manifest)
    if there is None:
        if is_url(manifest) or not os.path.isabs(manifest):
            raise UserError(
                f"{manifest}: does not exist: give an existing manifest, or the path that every node sees"
            )
        return None, str(manifest)
    if settings.model == TINY or os.path.isdir(settings.model):
        return read_plan(manifest, with_preset(settings), weights=False)[0].manifest, None
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
    return found, None
