"""`wanbatch augment`: from a recipe and the dataset that it names to a manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.augment.dataset import Loaded, dataset_path, find_dataset, load_originals
from wanbatch.jobs.augment.drawing import Child, Taken, draw, pools_of
from wanbatch.jobs.augment.earlier import (
    Rows,
    earlier_rows,
    parents_of,
    require_none_held_out,
    require_none_moved,
    sort_earlier,
    taken_by,
    warnings_about,
)
from wanbatch.jobs.augment.found import Found, FoundDataset
from wanbatch.jobs.augment.leakage import Leak, groups_in_several_splits, leaks_between, require_no_leak
from wanbatch.jobs.augment.manifest_file import require_form, require_outside
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.recipe import Recipe
from wanbatch.jobs.augment.recipe_file import read_recipe
from wanbatch.jobs.augment.selection import check_names, check_objects, of_classes, of_splits
from wanbatch.jobs.augment.tables import Reading
from wanbatch.jobs.config.schedule_names import scheduled_values
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.records import Source

ELSEWHERE = "name a file elsewhere with --out or --manifest; of a schedule, have recipe and output elsewhere"
"""What to do about a manifest within the dataset."""

NAMED = 3
"""Pictures that a message names; of the others it says how many there are."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many originals a class has in a split, and how many rows are made of them."""

    split: str | None
    label: str | None
    originals: int
    rows: int


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What a recipe makes of its dataset.

    Attributes:
        recipe: as it was read.
        dataset: path of the dataset, absolute, or its URL.
        children: the rows that are new.
        earlier: the rows that the manifest had before, which stay.
        replaced: the rows that it had before and that another recipe or dataset takes the place of.
        leaving: the rows of this recipe that it had before and that leave it, since the dataset has their pictures no
            more, or in another class or split.
        counts: by split and class.
        leaks: pictures that look like one of another split.
        warnings: what was left out or could not be done, a sentence each.
        loaded: the pictures that are augmented.
    """

    recipe: Recipe
    dataset: str
    children: tuple[Child, ...]
    earlier: Rows
    replaced: Rows
    leaving: Rows
    counts: tuple[ClassCount, ...]
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...]
    loaded: Loaded

    @property
    def is_full(self) -> bool:
        """Whether there is nothing to make, since every class has as many pictures as it is to be filled to."""
        return self.recipe.fill is not None and not self.children and not self.earlier and not self.leaving

    def as_json(self) -> dict[str, Any]:
        """What a script may want to read."""
        return {
            "dataset": self.dataset,
            "rows": len(self.earlier) + len(self.children),
            "new_rows": len(self.children),
            "leaving_rows": len(self.leaving),
            "recipe_digest": self.recipe.digest,
            "classes": [asdict(count) for count in self.counts],
            "near_copies": [str(leak) for leak in self.leaks],
            "warnings": list(self.warnings),
        }


def plan_augmentation(
    recipe_path: Path, target: Path, settings: Settings, anew: bool = False, drop_removed: bool = False
) -> Augmentation:
    """Read a recipe and its dataset, and draw the rows. Nothing is written or started.

    Args:
        recipe_path: of the TOML file.
        target: the manifest; rows that it has of the same recipe stay.
        settings: `map`, `source_root`, `source_fence` and `allow_http` say how the dataset is read.
        anew: draw all rows, as though there was no manifest yet.
        drop_removed: rows leave whose pictures the dataset has no more, or in another class or split.
    Raises:
        UserError: Something in the recipe or the dataset is wrong. MachineryError: A store does not answer.
    """
    require_form(target)
    recipe = read_recipe(recipe_path)
    folder = recipe_path.absolute().parent
    require_outside(dataset_path(recipe.dataset, folder), target, ELSEWHERE)
    path, found, reading = _find(recipe, folder, settings)
    wanted, others = of_splits(found, recipe)
    check_names(found, recipe)
    wanted = of_classes(found, wanted, recipe)
    of_objects = check_objects(wanted, recipe)
    look = recipe.near_copies != "keep" and bool(others or recipe.held_out)
    loaded = load_originals(found, wanted, reading, look)
    held_out, more = _held_out(found, others, recipe, folder, reading) if look else ([], ())
    leaks = leaks_between(loaded.originals, held_out)
    _require_no_shared_group(loaded.originals, others)
    kept = _without_leaks(loaded.originals, leaks, recipe)
    digests = [original.sha256 for original in (*loaded.originals, *held_out)]
    there = () if anew else earlier_rows(target)
    earlier, leaving, replaced = sort_earlier(there, recipe.digest, loaded.originals, leaks, held_out, drop_removed)
    require_none_held_out(target, earlier, leaks, held_out)
    others_of = partial(_of_other_classes, found, recipe, reading)
    _require_none_moved(target, earlier, loaded.originals, digests, others_of)
    drawn = draw(kept, recipe, taken_by(earlier), scheduled_values(os.environ))
    require_no_leak(drawn.children, recipe.split)
    said = (*found.warnings, *loaded.warnings, *more, *of_objects, *_of_leaks(leaks), *_of_splitless(found, recipe))
    return Augmentation(
        recipe=recipe,
        dataset=path,
        children=drawn.children,
        earlier=earlier,
        leaving=leaving,
        replaced=replaced,
        counts=_counts(kept, drawn.children, taken_by(earlier)),
        leaks=tuple(leaks),
        warnings=(*warnings_about(earlier, digests), *said, *drawn.warnings),
        loaded=loaded,
    )


def _find(recipe: Recipe, folder: Path, settings: Settings) -> tuple[str, FoundDataset, Reading]:
    """The path of a recipe's dataset, what is in it, and how it is read. folder: of the recipe."""
    path = dataset_path(recipe.dataset, folder)
    images = dataset_path(recipe.images, folder) if recipe.images is not None else None
    where = (settings.source_root, settings.source_fence, settings.allow_http)
    reading = Reading(recipe.columns, settings.map, *where)
    return path, find_dataset(path, images, reading, recipe.dataset), reading


def _counts(kept: Sequence[Original], children: Sequence[Child], taken: Taken) -> tuple[ClassCount, ...]:
    """Originals and rows by split and class. taken: by rows that there are already."""
    made = Counter((child.first.split, child.first.label) for child in children)
    return tuple(
        ClassCount(*pool, len(its), len(taken.get(pool, ())) + made[pool]) for pool, its in pools_of(kept).items()
    )


def _require_none_moved(
    target: Path,
    earlier: Rows,
    originals: Sequence[Original],
    digests: Collection[str],
    of_other_classes: Callable[[], Sequence[Original]],
) -> None:
    """Refuse rows whose pictures are in another class by now, and be it one that is not augmented.

    Args:
        target: the manifest.
        earlier: its rows.
        originals: that are augmented.
        digests: of the pictures that rows may be of.
        of_other_classes: reads the others; called only if there are rows of other pictures than these.
    """
    others = of_other_classes() if parents_of(earlier) - set(digests) else ()
    require_none_moved(target, earlier, [*originals, *others])


def _of_other_classes(found: FoundDataset, recipe: Recipe, reading: Reading) -> tuple[Original, ...]:
    """The pictures of the splits that are augmented whose classes are not."""
    if recipe.classes is None:
        return ()
    its, _ = of_splits(found, recipe)
    others = [picture for picture in its if picture.label not in recipe.classes]
    return load_originals(found, others, reading, look=False).originals


@dataclass(frozen=True, slots=True)
class Reference:
    """The pictures of a recipe's dataset: those that are augmented, with where they are, and those held out.

    others: of the splits that are augmented, the pictures of the classes that are not.
    """

    recipe: Recipe
    augmented: Loaded
    held_out: tuple[Original, ...]
    held_out_sources: dict[str, Source]
    others: tuple[Original, ...] = ()

    @property
    def classes(self) -> dict[str, set[str]]:
        """By the digests of all pictures: their classes in the augmented splits; none if they are held out."""
        found: dict[str, set[str]] = {}
        for original in (*self.augmented.originals, *self.others):
            found.setdefault(original.sha256, set()).add(str(original.label))
        for original in self.held_out if self.recipe.near_copies != "keep" else ():
            found[original.sha256] = set()
        return found


def read_reference(recipe_path: Path, settings: Settings, everything_looked_at: bool = False) -> Reference:
    """Read the dataset of a recipe, for those who look at what was made of it.

    Args:
        recipe_path: of the TOML file.
        settings: how the dataset is read.
        everything_looked_at: find out what the pictures that are augmented look like, too.
    Raises:
        UserError, MachineryError: as `plan_augmentation` does.
    """
    recipe = read_recipe(recipe_path)
    folder = recipe_path.absolute().parent
    _, found, reading = _find(recipe, folder, settings)
    wanted, others = of_splits(found, recipe)
    augmented = load_originals(found, of_classes(found, wanted, recipe), reading, everything_looked_at)
    own = load_originals(found, others, reading, look=True)
    elsewhere, _ = _of_other_datasets(recipe, folder, reading)
    held_out = (*own.originals, *elsewhere)
    return Reference(recipe, augmented, held_out, own.sources, _of_other_classes(found, recipe, reading))


def _held_out(
    found: FoundDataset, others: Sequence[Found], recipe: Recipe, folder: Path, reading: Reading
) -> tuple[list[Original], tuple[str, ...]]:
    """All pictures that none may be a copy of: those of other splits, and those of other datasets."""
    loaded = load_originals(found, others, reading, look=True)
    elsewhere, warnings = _of_other_datasets(recipe, folder, reading)
    return [*loaded.originals, *elsewhere], (*loaded.warnings, *warnings)


def _of_other_datasets(recipe: Recipe, folder: Path, reading: Reading) -> tuple[list[Original], tuple[str, ...]]:
    """The pictures of the datasets that a recipe names as `held_out`, and what was left out of them."""
    held_out: list[Original] = []
    warnings: tuple[str, ...] = ()
    for given in recipe.held_out:
        plain = Reading(type(recipe.columns)(), {}, allow_http=reading.allow_http)
        other = find_dataset(dataset_path(given, folder), None, plain, given)
        more = load_originals(other, [_renamed(one, given) for one in other.pictures], plain, look=True)
        held_out += more.originals
        warnings += more.warnings
    return held_out, warnings


def _renamed(picture: Found, given: str) -> Found:
    """A picture of another dataset as one of a split that is called like that."""
    return replace(picture, split=given if picture.split is None else f"{given} ({picture.split})")


def _require_no_shared_group(originals: Sequence[Original], others: Sequence[Found]) -> None:
    """Raises UserError if a group has pictures in several splits."""
    groups = {original.group for original in originals}
    for other in others:
        if other.group is not None and other.group in groups:
            raise UserError(f"group {other.group!r} is in split {other.split} and in an augmented one: {_APART}")
    for group, splits in groups_in_several_splits(originals):
        raise UserError(f"group {group!r} is in splits {' and '.join(splits)}: {_APART}")


_APART = "split the dataset so that each group is in one split"


def _without_leaks(originals: Collection[Original], leaks: Sequence[Leak], recipe: Recipe) -> list[Original]:
    """The originals that rows are made of. Raises UserError if the recipe wants no near-copies, and there are."""
    if leaks and recipe.near_copies == "refuse":
        raise UserError(
            f'{_leaks_in_words(leaks)}: take them out of one of the splits, or write near_copies = "drop"'
        )
    if recipe.near_copies == "keep":
        return list(originals)
    leaking = {id(leak.original) for leak in leaks}
    kept = [original for original in originals if id(original) not in leaking]
    if not kept and originals:
        raise UserError(
            f"{recipe.dataset}: no picture is left, since all are near-copies of held-out ones "
            f'({_leaks_in_words(leaks)}): write near_copies = "keep" if they are not'
        )
    return kept


def _of_leaks(leaks: Sequence[Leak]) -> list[str]:
    return [f"not augmented, as it is held out too: {_leaks_in_words(leaks)}"] if leaks else []


def _leaks_in_words(leaks: Sequence[Leak]) -> str:
    told = ", ".join(str(leak) for leak in leaks[:NAMED])
    return told + (f", and {len(leaks) - NAMED} more" if len(leaks) > NAMED else "")


def _of_splitless(found: FoundDataset, recipe: Recipe) -> list[str]:
    if recipe.split is None and not recipe.held_out:
        return [
            f'{recipe.dataset} has no splits: keep test pictures apart, and name them with held_out = "FOLDER" so '
            "that copies are found"
        ]
    return []
