"""The output folders that a manifest fills: what must be asked for further when the manifest is written anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.augment.earlier import Rows
from wanbatch.jobs.augment.manifest_file import FORMS
from wanbatch.manifests.columns import GIVEN
from wanbatch.manifests.dataset.status import held_ids, recorded_plan
from wanbatch.manifests.storage.urls import absolute, is_url


@dataclass(frozen=True, slots=True)
class Filled:
    """An output folder that a run has begun to fill.

    Attributes:
        out: its path or URL, as it was given.
        manifest: that its last run was given, a path or URL; None if it noted none.
        made: the ids with a picture.
        held: these and those that could not be made.
    """

    out: str
    manifest: str | None
    made: frozenset[str]
    held: frozenset[str]


def filled(out: str | Path) -> Filled | None:
    """What an output folder holds; None if no run has begun to fill it.

    Args:
        out: path of the folder, or its URL.
    Raises:
        UserError: A record in it is damaged.
        MachineryError: It cannot be read.
    """
    found = held_ids(out)
    if found is None:
        return None
    return Filled(str(out), recorded_plan(out).get("manifest"), *found)


def manifest_for(recipe: Path, out: str | Path) -> Path:
    """The manifest of a recipe for an output folder: by hand and of schedules the same.

    It is the one that the folder was filled from, if that is on this disk; else one beside the folder, of its name;
    for a folder in a store one beside the recipe, whose name no other folder gives.

    Args:
        recipe: of the TOML file.
        out: path of the folder, or its URL; it need not exist.
    Raises:
        UserError: A record in the folder is damaged.
        MachineryError: It cannot be read.
    """
    noted = recorded_plan(out).get("manifest")
    name = absolute(out).rpartition("/")[2]
    where = Path(out) if Path(out).name == name else Path(absolute(out))  # `.` has no name, and `..` another one
    usual = where.parent / f"{name}.jsonl"
    if is_url(out):
        digest = hashlib.sha256(absolute(out).encode()).hexdigest()[:8]
        usual = recipe.with_name(f"{recipe.stem}-{name}-{digest}.jsonl")
    if noted is None or noted == absolute(usual):
        return usual
    return Path(noted) if Path(noted).suffix.lower() in FORMS and Path(noted).is_file() else usual


def usual_folder(target: Path) -> Filled | None:
    """The output folder of a manifest where nobody names one: that of its name beside it, or in `out`.

    Args:
        target: the manifest.
    Returns:
        The folder, if a run of this manifest has begun to fill it.
    """
    for out in (target.with_suffix(""), Path("out") / target.stem):
        if out.is_dir() and recorded_plan(out).get("manifest") == absolute(target):
            return filled(out)
    return None


def require_all_asked(folder: Filled, target: Path, rows: Rows, before: Rows, drop_removed: bool = False) -> None:
    """Refuse to write a manifest that does not ask for all that its output folder holds, as the folder has it.

    Args:
        folder: that the manifest is to fill.
        target: the manifest.
        rows: that it is to have.
        before: that it has now.
        drop_removed: rows may leave the folder that are not asked for any more, as long as others are.
    Raises:
        UserError: Some are not asked for any more and may not leave, or ask for something else.
    """
    asked = {row["id"]: row for row in rows}
    lost = sorted(name for name in folder.held if name not in asked)
    had = {row["id"]: row for row in before}
    changed = sorted(
        name for name in folder.made & had.keys() & asked.keys() if _asks(asked[name]) != _asks(had[name])
    )
    may_leave = not changed and len(lost) < len(folder.held)  # else the run would refuse
    if not changed and (not lost or (drop_removed and may_leave)):
        return
    what = f"{number_of(len(lost), 'rows')} that it does not ask for any more, {lost[0]!r} for one" if lost else ""
    if changed:
        are = "is another" if len(changed) == 1 else "are others"
        what += (
            f"{' and ' if lost else ''}{number_of(len(changed), 'rows')} that {are} by now, {changed[0]!r} for one"
        )
    drop = f", take these {len(lost)} out of the dataset with --drop-removed" if may_leave else ""
    way_on = f"{_way_on(folder, target, lost, had)}{drop}, or begin anew with another --out"
    raise UserError(f"{target}: is not written anew, since {folder.out} holds {what}: {way_on}")


def _way_on(folder: Filled, target: Path, lost: list[str], had: Mapping[str, Any]) -> str:
    """What to do so that the folder can be gone on with."""
    if not lost or had.keys() & set(lost):
        return "take recipe and dataset back as they were when it was written"
    if folder.manifest not in (None, absolute(target)) and Path(folder.manifest or "").is_file():
        return f"name the manifest that asked for them, {folder.manifest}, with --manifest"
    return "bring back the manifest that asked for them"


def _asks(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row decides its picture."""
    return {name: value for name, value in row.items() if name in GIVEN}
