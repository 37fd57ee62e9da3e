"""Going on with an output folder: what it holds against what is planned, and what is made again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from wanbatch.errors import UserError
from wanbatch.jobs.config.setting_paths import in_any_current_folder
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.changed_sources import rows_of_changed_sources
from wanbatch.jobs.driver.fingerprint import model_location
from wanbatch.jobs.planning.plan import Plan, has_sources
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.fingerprint import decoding_changes
from wanbatch.manifests.dataset.folder import OutputFolder, is_of_other_settings
from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.pipeline.loading.registry import ModelInfo

_log = logging.getLogger(__name__)


def folder_of_run(
    out: str | Path, slots: int | None, fingerprint: Callable[[int], Mapping[str, Any]], new_run: bool
) -> tuple[str | Path, int | None]:
    """The output folder of a run, and how many rows are denoised together in it.

    Args:
        out: as the user gave it.
        slots: how many rows are denoised together; None: as the folder's first run measured.
        fingerprint: of this run with so many slots.
        new_run: take the first of OUT, OUT-2, OUT-3, ... that no run with other settings has filled, instead of
            OUT; so a rerun finds its own.

    Returns:
        The folder, which need not exist yet; and the slots, None if they are to be measured.

    Raises:
        UserError: What a folder records is damaged.
        MachineryError: It cannot be read.
    """
    folder, number = out, 1
    while (recorded := recorded_fingerprint(folder)) is not None:
        own = recorded.get("slots") if slots is None else slots
        if not new_run or (own is not None and not is_of_other_settings(folder, fingerprint(own))):
            return folder, own
        number += 1
        numbered = f"{str(out).rstrip('/')}-{number}"
        folder = numbered if isinstance(out, str) else Path(numbered)
    return folder, slots


def rows_made_again(
    folder: OutputFolder,
    plan: Plan,
    retry: Collection[str] | None,
    rerun_changed: bool,
    drop_removed: bool = False,
) -> set[str]:
    """Check what a folder holds against the plan; the ids of rows in it that are made again.

    Args:
        folder: open.
        plan: of the manifest that the folder is filled from.
        retry: error classes whose quarantined rows are made again; empty: all of them; None: none.
        rerun_changed: rows that changed since they were made are made again, and so are those whose pictures did.

        drop_removed: whether rows may leave the folder that the manifest does not ask for any more.

    Raises:
        UserError: The folder has images that the manifest does not ask for, see `rows_to_drop`; or images of rows
            that changed, and these are not to be made again.
    """
    leaving = rows_to_drop(folder.url, folder.committed().where, plan, drop_removed)
    again = (rows_to_retry(folder, retry) - leaving) | changed_rows(folder, plan, rerun_changed)
    return again | rows_of_changed_sources(folder, plan) if rerun_changed else again


def rows_to_drop(out: str | Path, held: Collection[str], plan: Plan, drop_removed: bool) -> set[str]:
    """The ids in a folder, made or failed, that the manifest does not ask for any more.

    Args:
        out: the folder, as messages name it.
        held: the ids in it, made or failed.
        plan: of the manifest that the folder is filled from.
        drop_removed: whether they may be taken out of the dataset.

    Raises:
        UserError: There are such ids and they may not; or the manifest asks for none of what the folder holds, and
            so is another one.
    """
    asked = frozenset(plan.ids())
    others = {name for name in held if name not in asked}
    if not others:
        return others
    if len(others) == len(held):
        raise UserError(
            f"{out}: {plan.manifest.path} asks for none of the {len(others)} images that it holds, {min(others)!r} "
            "for one, so all would leave it: go on with the manifest that did ask for them (it may have grown, and "
            "rows of it may be gone), or choose another output folder"
        )
    if not drop_removed:
        raise UserError(
            f"{out}: holds {len(others)} images that {plan.manifest.path} does not ask for, {min(others)!r} for one: "
            f"go on with the manifest that did (it may have grown), take these {len(others)} out of the dataset with "
            "`wanbatch run --drop-removed`, or choose another output folder"
        )
    return others


def rows_to_leave(out: str | Path, plan: Plan) -> set[str]:
    """What `rows_to_drop` gives of a folder that is only looked at, without its lock, and need not exist.

    Raises:
        UserError: The manifest asks for none of what the folder holds, or the folder is damaged.
        MachineryError: It cannot be read.
    """
    if recorded_fingerprint(out) is None:
        return set()
    return rows_to_drop(out, CommittedParts.open(out).finished, plan, drop_removed=True)


def rows_to_retry(folder: OutputFolder, classes: Collection[str] | None) -> set[str]:
    """The ids of quarantined rows that are made again.

    Args:
        folder: where they are quarantined.
        classes: only rows that failed with one of these error classes; empty: all; None: none.
    """
    if classes is None:
        return set()
    return {name for name, kind in folder.committed().failed.items() if not classes or kind in classes}


def changed_rows(folder: OutputFolder, plan: Plan, allowed: bool) -> set[str]:
    """The ids whose rows ask for something else than what was made of them.

    Raises:
        UserError: There are such rows, and it is not allowed to make them again.
    """
    made = folder.committed().made
    digests = zip(plan.ids(), plan.images["digest"].to_pylist(), strict=True)
    changed = {name for name, digest in digests if made.get(name) not in (None, digest)}
    if changed and not allowed:
        raise UserError(
            f"{plan.manifest.path}: {len(changed)} rows changed since they were made, {min(changed)!r} for one: "
            "leave them as they were and add rows with new ids, or make them again with --rerun-changed"
        )
    return changed


def warn_of_other_decoding(folder: OutputFolder, plan: Plan, fingerprint: Mapping[str, Any], log: RunLog) -> None:
    """Tell the user, and the log, if a folder has images whose sources were decoded otherwise than they are now.

    Args:
        folder: open.
        plan: of what is in the folder and of what will be made.
        fingerprint: of this run.
        log: the folder's.
    """
    if not folder.committed().made or not pc.any(has_sources(plan.manifest.rows)).as_py():
        return
    if changed := decoding_changes(recorded_fingerprint(folder.url) or {}, fingerprint):
        log.write("sources_decoded_otherwise", changes=changed)
        _log.warning(
            "%s: what was made so far had its sources decoded by another version (%s), so the same file may give "
            "other pixels now, above all one with a colour profile: choose another output folder if all images must "
            "come from the same decoding",
            folder.url,
            "; ".join(changed),
        )


def settings_for_later(settings: Settings, model: ModelInfo, plan: Plan) -> dict[str, Any]:
    """All settings as JSON values, those without a value too, with paths that hold in any current folder."""
    folders = {"source_root": plan.manifest.source_root, "source_fence": plan.manifest.source_fence}
    paths = {"model": model_location(model), **{name: str(folder) for name, folder in folders.items()}}
    return {**in_any_current_folder(settings).model_dump(mode="json"), **paths}
