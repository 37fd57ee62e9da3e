"""Datasets whose boxes are in a file of COCO's JSON: a file, or a folder that has one or several of them."""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.augment.found import Found, FoundBox, FoundDataset, split_of_folders, split_of_name
from wanbatch.jobs.augment.outlines import outline_of_coco
from wanbatch.manifests.records import Source

KEYS = ("images", "annotations", "categories")
BESIDE = ("_annotations.coco.json", "annotations.json", "instances.json")


def coco_files(path: str, names: Sequence[str]) -> list[str]:
    """The files of COCO's JSON that a dataset consists of, absolute; empty if it is none.

    Args:
        path: of the dataset, absolute and local.
        names: the files below it, if it is a folder.
    """
    if not names:
        return [path] if path.endswith(".json") and _is_coco(path) else []
    tables = [name for name in names if name.endswith(".json")]
    found = [name for name in tables if posixpath.basename(name) in BESIDE or "annotations" in name.split("/")[:-1]]
    return [f"{path}/{name}" for name in found if _is_coco(f"{path}/{name}")]


def _is_coco(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16).lstrip()
        if not start.startswith(b"{"):
            return False
        return isinstance(told := _load(path), dict) and all(isinstance(told.get(key), list) for key in KEYS)
    except UserError:
        return False


def _load(path: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_coco(files: Sequence[str], folder: str, images: str | None) -> FoundDataset:
    """The pictures of a dataset in COCO's JSON, with their boxes.

    The class of a picture is that of most of its boxes; of several that have as many, the first by name.

    Args:
        files: absolute paths of the tables.
        folder: of the dataset, absolute.
        images: the folder that the names of pictures start from, absolute; None: each table's own, or for tables in
            a folder `annotations` one beside it.
    Raises:
        UserError: A table is not as COCO's are, or a picture is in none of the folders.
    """
    pictures: list[Found] = []
    classes: dict[str | None, list[str]] = {}
    root = images or folder
    for file in files:
        told = _load(file)
        shown = os.path.relpath(file, folder) if file.startswith(folder) else file
        names = {one.get("id"): str(one.get("name")) for one in told["categories"] if isinstance(one, dict)}
        relative = os.path.relpath(file, folder)
        split = split_of_folders(relative) or split_of_name(posixpath.basename(file))
        classes[split] = [name for name in names.values() if name in _used(told, names)]
        boxes = _boxes_by_image(told["annotations"], names, shown)
        places = _Places(root, [images] if images else _beside(file, split))
        for picture in told["images"]:
            pictures.append(_found(picture, boxes, places, split, shown))
    return FoundDataset(root, root, pictures, classes)


def _used(told: Mapping[str, Any], names: Mapping[Any, str]) -> set[str]:
    """Categories with a box; `supercategory` entries of some exporters have none."""
    return {names[one["category_id"]] for one in told["annotations"] if one.get("category_id") in names}


def _beside(file: str, split: str | None) -> list[str]:
    """Where the pictures of a table may be, absolute folders."""
    own = os.path.dirname(file)
    outer = os.path.dirname(own)
    stem = posixpath.splitext(os.path.basename(file))[0].removeprefix("instances_")
    inside = [f"{outer}/{name}" for name in (stem, split, f"images/{stem}", "images", f"images/{split}") if name]
    return [own, f"{own}/images", *inside, outer]


class _Places:
    """Finds the pictures that a table names."""

    def __init__(self, root: str, folders: Sequence[str | None]):
        self._root, self._folders = root, [folder for folder in folders if folder]

    def relative(self, name: str, shown: str) -> str:
        """The path of a picture from the root. Raises UserError if it is in none of the folders."""
        for folder in self._folders:
            path = os.path.normpath(f"{folder}/{name}")
            if os.path.isfile(path):
                return os.path.relpath(path, self._root)
        raise UserError(
            f"{shown}: names picture {name!r}, which is not there: name the folder of the pictures with images = ..."
        )


def _boxes_by_image(annotations: Sequence[Any], names: Mapping[Any, str], shown: str) -> dict[Any, list[FoundBox]]:
    found: dict[Any, list[FoundBox]] = {}
    for index, one in enumerate(annotations):
        try:
            label, (left, top, width, height) = names[one["category_id"]], map(_finite, one["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{shown}: annotation {index} has no box of a known category ({error!r}): it needs image_id, "
                "category_id and bbox = [left, top, width, height]"
            ) from error
        try:
            outline = outline_of_coco(one.get("segmentation"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{shown}: annotation {index} has a segmentation that is none ({error}): must be a list of polygons "
                "[x, y, x, y, ...] of three points or more, or run lengths like {size: [height, width], counts: ...}"
            ) from error
        box = FoundBox(label, left, top, width, height, False, outline)
        found.setdefault(one.get("image_id"), []).append(box)
    return found


def _finite(given: Any) -> float:
    """A number of a box. Raises ValueError or TypeError if it is none."""
    if not math.isfinite(number := float(given)):
        raise ValueError(f"{given} is no number")
    return number


def _found(
    picture: Any, boxes: Mapping[Any, list[FoundBox]], places: _Places, split: str | None, shown: str
) -> Found:
    if not isinstance(picture, dict) or not isinstance(name := picture.get("file_name"), str):
        raise UserError(f"{shown}: has an image without file_name: give each one")
    path = places.relative(name, shown)
    its = boxes.get(picture.get("id"), [])
    label = most_frequent(box.label for box in its)
    columns = {"label": label, "file_name": name, **{k: v for k, v in picture.items() if isinstance(v, str | int)}}
    return Found(Source(path), posixpath.splitext(path)[0], path, label, split, columns, boxes=its)


def most_frequent(labels: Iterator[str] | Sequence[str]) -> str | None:
    """The label that occurs most often, the first by name of several; None of none."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label)) if counts else None
