"""Which pictures of a dataset a recipe is about: its splits and classes; and the columns that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.augment.found import TRAIN, Found, FoundDataset
from wanbatch.jobs.augment.object_words import OBJECT_NAMES
from wanbatch.jobs.augment.recipe import Recipe
from wanbatch.jobs.augment.rows import OWN
from wanbatch.jobs.augment.templates import check_template
from wanbatch.jobs.config.schedule_names import TEMPLATE_NAMES
from wanbatch.manifests.columns import GIVEN, WRITTEN
from wanbatch.suggestions import did_you_mean

NAMED = 3
"""Names that a message suggests."""


def of_splits(found: FoundDataset, recipe: Recipe) -> tuple[list[Found], list[Found]]:
    """The pictures of the splits that are augmented, and all others. Raises UserError if the recipe must say more."""
    there = list(dict.fromkeys(picture.split for picture in found.pictures))
    names = [name for name in there if name is not None]
    if recipe.split is None:
        if names:
            likely = next((name for name in names if name.lower() in TRAIN), names[0])
            bare = sum(picture.split is None for picture in found.pictures)
            of_none = (
                f"; {number_of(bare, 'pictures', 'is', 'are')} in none: if {likely!r} is a class, rename its folder"
                if bare
                else ""
            )
            raise UserError(
                f"{recipe.dataset}: has splits {', '.join(names)}: say which one is augmented, like "
                f'split = "{likely}"; the others are held out{of_none}'
            )
        return list(found.pictures), []
    for name in recipe.split:
        if name not in names:
            said = f"there are: {', '.join(names)}{did_you_mean(name, names)}" if names else "it has no splits"
            raise UserError(f"{recipe.dataset}: has no split {name!r}; {said}")
    chosen = set(recipe.split)
    wanted = [picture for picture in found.pictures if picture.split in chosen]
    return wanted, [picture for picture in found.pictures if picture.split not in chosen]


def check_names(found: FoundDataset, recipe: Recipe) -> None:
    """Check every name in the recipe that means a column, before pictures are loaded. Raises UserError."""
    there = found.column_names
    told = [*TEMPLATE_NAMES, *(OBJECT_NAMES if any(picture.boxes for picture in found.pictures) else ())]
    for text in recipe.template:
        check_template(text.text, [*there, *recipe.choices], recipe.dataset, told)
    for name in recipe.choices:
        if name in there:
            raise UserError(f"choices names {name!r}, which is a column of {recipe.dataset} already: rename it")
    columns = [("keep", name) for name in recipe.keep]
    columns += [("hard", recipe.hard.column)] if recipe.hard else []
    for key, name in columns:
        if name not in there:
            raise UserError(
                f"{key} names {name!r}, which is no column of {recipe.dataset}; there are: "
                f"{', '.join(there) or 'none'}{did_you_mean(name, there)}"
            )
    for name in recipe.keep:
        if name in OWN or name in GIVEN or name in WRITTEN:
            raise UserError(f"keep names {name!r}, which rows have of their own: rename the column in the dataset")


def check_objects(wanted: Sequence[Found], recipe: Recipe) -> list[str]:
    """Check that pictures have what a recipe keeps of them. Raises UserError if none has.

    Returns:
        What to say of pictures and objects that lack it, a sentence each.
    """
    objects = recipe.objects
    if objects is None:
        return []
    boxes = [box for picture in wanted for box in picture.boxes or ()]
    masked = sum(box.outline is not None for box in boxes) + sum(picture.mask is not None for picture in wanted)
    asked = (
        f'{recipe.dataset}: has no {objects.keep}{_in_split(recipe)}, and [objects] asks keep = "{objects.keep}": '
    )
    if objects.keep == "boxes" and not boxes:
        raise UserError(
            f"{asked}name their column with columns = {{ boxes = ... }}, or give a dataset of COCO or YOLO"
        )
    if objects.keep == "masks" and not masked:
        raise UserError(
            asked
            + ('write keep = "boxes", which it has' if boxes else "name their column with columns = { mask = ... }")
            + ", or give a dataset of COCO or YOLO with segments"
        )
    said = []
    by_mask = objects.keep == "masks"
    if bare := sum(not (one.boxes or (by_mask and one.mask is not None)) for one in wanted):
        its = "has" if bare == 1 else "have"
        said.append(f"{bare} of {number_of(len(wanted), 'pictures')} {its} nothing that is kept: varied as a whole")
    lacking = [box for one in wanted if one.mask is None for box in one.boxes or () if box.outline is None]
    if objects.keep == "masks" and lacking:
        its = "has" if len(lacking) == 1 else "have"
        said.append(f"{len(lacking)} of {number_of(len(boxes), 'objects')} {its} no mask: the box is kept instead")
    return said


def of_classes(found: FoundDataset, wanted: Sequence[Found], recipe: Recipe) -> list[Found]:
    """The pictures of the classes that are augmented. Raises UserError for a class without pictures."""
    counts = Counter(picture.label for picture in wanted)
    labels = [label for label in counts if label is not None]
    for label in recipe.classes or ():
        if not counts[label]:
            there = ", ".join(sorted(labels)) or "none"
            raise UserError(
                f"{recipe.dataset}: class {label!r} has no pictures{_in_split(recipe)}; there are: {there}"
                f"{did_you_mean(label, labels)}"
            )
    if recipe.classes is not None:
        return [picture for picture in wanted if picture.label in recipe.classes]
    for split in [None, *(recipe.split or ())]:
        for label in found.classes.get(split, ()):
            if not counts[label]:
                raise UserError(
                    f"{recipe.dataset}: class {label!r} has no pictures{_in_split(recipe)}: add some, or name the "
                    f"classes that are augmented, like classes = {sorted(labels)[:NAMED]}"
                )
    return list(wanted)


def _in_split(recipe: Recipe) -> str:
    return f" in split {' or '.join(recipe.split)}" if recipe.split else ""
