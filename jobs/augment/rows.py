"""Rows as a manifest has them: what is recorded of parents, split and class with each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.augment.drawing import Child
from wanbatch.jobs.augment.kept_objects import boxes_of_row, has_objects
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.recipe import Recipe

COPIED, FLAGGED = "copied", "flagged"
"""Of boxes and masks: they hold for the picture; or they were left out, since the picture may not fit them."""

OWN = (
    "label",
    "split",
    "source_id",
    "source_sha256",
    "parents",
    "recipe_digest",
    "regeneration",
    "annotations",
    "boxes",
    "mask",
)
"""Columns that a recipe writes beside those that wanbatch knows; a dataset's own cannot be kept under these names."""


def manifest_row(
    child: Child, recipe: Recipe, path_of: Callable[[Original], str], map_of: Callable[[Child], str]
) -> dict[str, Any]:
    """One row of the manifest.

    Args:
        child: what is made.
        recipe: what decided it.
        path_of: the path of an original, as the manifest has it.
        map_of: the path of a row's creativity map, which is written first.
    Raises:
        UserError: Boxes are to be copied and the size of the picture is not known.
    """
    first = child.first
    row: dict[str, Any] = {"id": child.id, "prompt": child.prompt}
    if len(child.parents) == 1:
        row["image"] = path_of(first)
    else:
        row["images"] = [path_of(parent) for parent, _ in child.parents]
        row["blend_weights"] = [share for _, share in child.parents]
    row |= _creativity(child, recipe, map_of) | {"seed": child.seed, **recipe.settings}
    row |= {
        "label": first.label,
        "split": first.split,
        "source_id": first.root_id,
        "source_sha256": first.sha256,
        "parents": [_parent(parent, share) for parent, share in child.parents],
        "recipe_digest": recipe.digest,
        "regeneration": 0,
    }
    row |= _annotations(child, recipe)
    for name in recipe.keep:
        row[name] = first.columns.get(name)
    return {name: value for name, value in row.items() if value is not None}


def _creativity(child: Child, recipe: Recipe, map_of: Callable[[Child], str]) -> dict[str, Any]:
    """How much a picture may change: one number, or another one for its objects."""
    objects = recipe.objects
    if objects is None or not has_objects(child.first, objects):
        return {"creativity": child.creativity}
    boxes = boxes_of_row(child.first, objects)
    told: dict[str, Any] = {"creativity_map": map_of(child)} if boxes is None else {"creativity": child.creativity}
    if boxes:
        told["creativity_boxes"] = boxes
    if boxes is not None and not boxes:
        return told
    if objects.pixels_kept:
        told["keep_pixels"] = True
        if objects.inside:
            told["keep_pixels_up_to"] = objects.inside
    if objects.softness:
        told["map_softness"] = objects.softness
    return told


def _creativity_of_objects(child: Child, recipe: Recipe) -> float:
    """The creativity at the objects of a picture."""
    objects = recipe.objects
    if objects is None or not has_objects(child.first, objects):
        return child.creativity
    return objects.inside


def _parent(parent: Original, share: float) -> dict[str, Any]:
    return {"id": parent.id, "sha256": parent.sha256, "split": parent.split, "share": share}


def _annotations(child: Child, recipe: Recipe) -> Mapping[str, Any]:
    """Boxes and masks, copied where the picture keeps to its source, else flagged."""
    first = child.first
    if first.boxes is None and first.mask is None:
        return {}
    if len(child.parents) > 1 or _creativity_of_objects(child, recipe) >= recipe.annotations_below:
        return {"annotations": FLAGGED}
    copied: dict[str, Any] = {"annotations": COPIED}
    if first.boxes is not None:
        width, height = (recipe.settings.get(name) for name in ("width", "height"))
        if width is None or height is None:
            raise UserError(
                f"{first.name}: has boxes, which are copied in the pixels of the pictures that are made: give them a "
                "size with settings = { width = ..., height = ... }, or write annotations_below = 0"
            )
        copied["boxes"] = fitted_boxes(first, int(width), int(height))
    if first.mask is not None:
        copied["mask"] = first.mask
    return copied


def fitted_boxes(original: Original, width: int, height: int) -> list[dict[str, Any]]:
    """The boxes of an original in the pixels of a picture that starts from it, cut at its edges.

    A source is scaled to cover the picture, and what is over is cut on both sides alike.
    """
    scale = max(width / original.width, height / original.height)
    over_x, over_y = (original.width * scale - width) / 2, (original.height * scale - height) / 2
    found = []
    for box in original.boxes or ():
        left, top = box.left * original.width * scale - over_x, box.top * original.height * scale - over_y
        right = min(left + box.width * original.width * scale, width)
        bottom = min(top + box.height * original.height * scale, height)
        left, top = max(left, 0.0), max(top, 0.0)
        if right > left and bottom > top:
            corners = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            found.append({"label": box.label, "box": corners})
    return found
