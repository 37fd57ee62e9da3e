"""Going on with an output folder: what it holds against what is planned, and what is made again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.config.setting_paths import in_any_current_folder
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.changed_sources import rows_of_changed_sources
from wanbatch.jobs.driver.fingerprint import model_location
from wanbatch.jobs.planning.plan import Plan, has_sources
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.manifests.columns import ALWAYS
from wanbatch.manifests.dataset.fingerprint import decoding_changes
from wanbatch.manifests.dataset.folder import is_of_other_settings
from wanbatch.manifests.dataset.seen_folder import AnyFolder
from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.manifests.storage.urls import absolute
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


class RowsToChange(NamedTuple):
    """The ids in a folder that do not stay as they are: those that are made again, and those that leave it.

    leaving_failed: how many of those that leave it had failed.
    """

    again: set[str]
    leaving: set[str]
    leaving_failed: int


def rows_to_change(
    folder: AnyFolder,
    plan: Plan,
    retry: Collection[str] | None,
    rerun_changed: bool,
    drop_removed: bool = False,
) -> RowsToChange:
    """Check what a folder holds against the plan, and find what of it a run would change.

    Args:
        folder: open, or only looked at.
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
    if rerun_changed:
        again |= rows_of_changed_sources(folder, plan)
    return RowsToChange(again, leaving, len(leaving & folder.committed().failed.keys()))


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
            f"{out}: {plan.manifest.path} asks for none of the {number_of(len(others), 'images')} that it holds, "
            f"{min(others)!r} for one, so all would leave it: go on with the manifest that did ask for them (it "
            f"may have grown, and "
            "rows of it may be gone), or choose another output folder"
        )
    if not drop_removed:
        held_too = number_of(len(others), "images")
        raise UserError(
            f"{out}: holds {held_too} that {plan.manifest.path} does not ask for, {min(others)!r} for one: "
            f"go on with the manifest that did (it may have grown), take these {len(others)} out of the dataset with "
            "`wanbatch run --drop-removed`, or choose another output folder"
        )
    return others


def rows_to_retry(folder: AnyFolder, classes: Collection[str] | None) -> set[str]:
    """The ids of quarantined rows that are made again.

    Args:
        folder: where they are quarantined.
        classes: only rows that failed with one of these error classes; empty: all; None: none.
    """
    if classes is None:
        return set()
    return {name for name, kind in folder.committed().failed.items() if not classes or kind in classes}


def changed_rows(folder: AnyFolder, plan: Plan, allowed: bool) -> set[str]:
    """The ids whose rows ask for something else than what was made of them.

    Raises:
        UserError: There are such rows, and it is not allowed to make them again.
    """
    made = folder.committed().made
    digests = zip(plan.ids(), plan.images["digest"].to_pylist(), strict=True)
    changed = {name for name, digest in digests if made.get(name) not in (None, digest)}
    if changed and not allowed:
        since = "it was" if len(changed) == 1 else "they were"
        raise UserError(
            f"{plan.manifest.path}: {number_of(len(changed), 'rows')} changed since {since} made, "
            f"{min(changed)!r} for one: leave them as they were and add rows with new ids, or make them "
            "again with --rerun-changed"
        )
    return changed


def warn_of_other_decoding(folder: AnyFolder, plan: Plan, fingerprint: Mapping[str, Any], log: RunLog) -> None:
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


def plan_for_folder(folder: AnyFolder, plan: Plan, again: Collection[str]) -> tuple[Plan, pa.Schema]:
    """A plan with the columns that a folder's data parts can have, too; and these parts' schema.

    The first run of a folder has all of `columns.ALWAYS`; a folder that was begun without one goes on so.

    Args:
        folder: what was made of the plan so far.
        plan: what is made.
        again: ids in the folder that are made again.

    Raises:
        UserError: The folder has other columns than the manifest, and values of one or the other would be lost.
    """
    there = folder.later_columns()
    fitting = plan.with_later(ALWAYS) if there is None else plan.for_folder(there, folder.committed().made, again)
    schema = folder.common_columns(fitting.added_columns)
    return fitting.with_columns(schema), schema


def check_output_is_another(manifest: str | Path, out: str | Path) -> None:
    """Raise UserError if the output folder is the manifest."""
    if absolute(manifest) == absolute(out):
        raise UserError(f"{out}: is the manifest and cannot be the output folder, too: give --out another one")


def settings_for_later(settings: Settings, model: ModelInfo, plan: Plan) -> dict[str, Any]:
    """All settings as JSON values, those without a value too, with paths that hold in any current folder."""
    folders = {"source_root": plan.manifest.source_root, "source_fence": plan.manifest.source_fence}
    paths = {"model": model_location(model), **{name: str(folder) for name, folder in folders.items()}}
    return {**in_any_current_folder(settings).model_dump(mode="json"), **paths}
