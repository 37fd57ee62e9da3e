"""Datasets in YOLO's form: a YAML file with classes and splits, and a text file of boxes for each picture."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from wanbatch.errors import UserError
from wanbatch.jobs.augment.coco import most_frequent
from wanbatch.jobs.augment.found import Found, FoundBox, FoundDataset
from wanbatch.jobs.augment.outlines import polygons_of
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.formats import PICTURE_SUFFIXES
from wanbatch.manifests.storage.urls import files_below

SPLITS = ("train", "val", "test")
SUFFIXES = (".yaml", ".yml")


def yolo_file(path: str, names: Sequence[str]) -> str | None:
    """The YAML file of a dataset in YOLO's form, absolute; None if it is none.

    Args:
        path: of the dataset, absolute and local.
        names: the files below it, if it is a folder.
    """
    if not names:
        return path if path.endswith(SUFFIXES) else None
    top = [name for name in names if name.endswith(SUFFIXES) and "/" not in name]
    return next((f"{path}/{name}" for name in top if _looks_right(f"{path}/{name}")), None)


def _looks_right(path: str) -> bool:
    try:
        told = _load(path)
    except UserError:
        return False
    return "names" in told and any(name in told for name in SPLITS)


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            told = yaml.safe_load(file)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not isinstance(told, dict):
        raise UserError(f"{path}: has no names and no train: it is no dataset in YOLO's form")
    return told


def read_yolo(file: str) -> FoundDataset:
    """The pictures of a dataset in YOLO's form, with their boxes. file: the YAML file, absolute.

    Raises:
        UserError: It names what is not there, or a line of boxes is not as YOLO's are.
    """
    told = _load(file)
    names = _names(told.get("names"), file)
    root = os.path.normpath(os.path.join(os.path.dirname(file), str(told.get("path") or "")))
    pictures = []
    for split in SPLITS:
        for folder in _folders(told.get(split)):
            pictures += list(_pictures(root, folder, split, names, file, segments="kpt_shape" not in told))
    if not pictures:
        raise UserError(f"{file}: names no folder with pictures: give train = a folder below {root}")
    used = {box.label for one in pictures for box in one.boxes or ()}
    return FoundDataset(root, root, pictures, {None: [name for name in names.values() if name in used]})


def _names(given: Any, file: str) -> dict[int, str]:
    if isinstance(given, list):
        return {index: str(name) for index, name in enumerate(given)}
    if isinstance(given, dict) and all(isinstance(index, int) for index in given):
        return {index: str(name) for index, name in given.items()}
    raise UserError(f"{file}: names must be a list of classes, or a table of numbers and classes")


def _folders(given: Any) -> list[str]:
    return [] if given is None else [str(one) for one in given] if isinstance(given, list) else [str(given)]


def _pictures(
    root: str, folder: str, split: str, names: Mapping[int, str], file: str, segments: bool
) -> Iterator[Found]:
    where = os.path.normpath(os.path.join(root, folder))
    if not os.path.isdir(where) and folder.startswith("../"):
        where = os.path.normpath(os.path.join(root, folder[3:]))  # as Roboflow writes it
    if not os.path.isdir(where):
        raise UserError(f"{file}: {split} is {folder}, and there is no folder {where}: mend the path")
    for name in files_below(where):
        if not name.lower().endswith(PICTURE_SUFFIXES):
            continue
        path = os.path.relpath(f"{where}/{name}", root)
        boxes = _boxes(f"{root}/{_labels_path(path)}", names, segments)
        label = most_frequent([box.label for box in boxes])
        columns = {"label": label, "file_name": path}
        yield Found(Source(path), posixpath.splitext(path)[0], path, label, split, columns, boxes=boxes)


def _labels_path(path: str) -> str:
    """Where the boxes of a picture are: `labels` in place of the last `images` in its path."""
    folders = path.split("/")
    for index in range(len(folders) - 2, -1, -1):
        if folders[index] == "images":
            folders[index] = "labels"
            break
    return posixpath.splitext("/".join(folders))[0] + ".txt"


def _boxes(path: str, names: Mapping[int, str], segments: bool) -> list[FoundBox]:
    """The boxes of a picture; none without a file of labels, as a picture of background has.

    segments: lines may be polygons; else what follows a box are key points.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}): mend it, or remove it if nothing is labelled") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            index, *numbers = line.split()
            found.append(_object(names[int(index)], [float(number) for number in numbers], segments))
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path}:{number}: is {line.strip()!r}: must be a class number below {len(names)} and four fractions"
                + (", or those of three points or more" if segments else "")
            ) from error
    return found


def _object(label: str, numbers: Sequence[float], segments: bool) -> FoundBox:
    """One line of labels: a box by its middle, perhaps with a confidence or key points, or a polygon.

    Raises:
        ValueError: It is none of them.
    """
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number that is none")
    if segments and len(numbers) > 5:
        outline = polygons_of([numbers])
        (left, right), (top, bottom) = ((min(its), max(its)) for its in (numbers[0::2], numbers[1::2]))
        return FoundBox(label, left, top, right - left, bottom - top, True, outline)
    x, y, width, height = numbers[:4]
    return FoundBox(label, x - width / 2, y - height / 2, width, height, True)
