"""Datasets that the readers of manifests read: pictures, tables, datasets of Hugging Face, outputs of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.jobs.augment.found import (
    Found,
    FoundBox,
    FoundDataset,
    class_of_path,
    nested_classes,
    split_of_folders,
    split_of_name,
    split_of_path,
)
from wanbatch.jobs.augment.recipe import Columns
from wanbatch.manifests.columns import GIVEN
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.column_names import meant_column
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import huggingface_features
from wanbatch.manifests.storage.urls import is_url
from wanbatch.suggestions import did_you_mean

LABELS = ("label", "class", "class_name", "category", "fine_label")
BOXES = ("boxes", "bbox", "bboxes", "objects")
FILE_NAME = "file_name"
KNOWN = ("prompt", "negative_prompt", "creativity", "seed")
"""Known columns of rows that templates and scores may name, too."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a dataset is read. map: columns read as others. root, fence: as the settings of a run have them."""

    columns: Columns
    map: Mapping[str, str]
    root: str | None = None
    fence: str | None = None
    allow_http: bool = False


def read_table(path: str, reading: Reading) -> FoundDataset:
    """The pictures of a dataset that a reader of manifests takes.

    Args:
        path: of the dataset, absolute, or its URL.
        reading: how it is read.
    Raises:
        UserError: It cannot be read, has no pictures, or lacks a column that the recipe names.
        MachineryError: The store that holds it does not answer.
    """
    renames = dict(reading.map)
    for name, column in (("image", reading.columns.image), ("id", reading.columns.id)):
        if column not in (None, name):
            renames[str(column)] = name
    manifest = _read(path, renames, reading)
    if not renames.keys() & _meaning_image(manifest):
        found = _meaning_image(manifest)
        if found and all(not sources for sources in manifest.rows["sources"].to_pylist()):
            manifest = _read(path, {**renames, found[0]: "image"}, reading)
    pictures = list(_pictures(manifest, path, reading.columns))
    paths = [one.columns.get(FILE_NAME) for one in pictures]
    by_folder = not is_url(path) and all(paths)
    classes = _folders_of_classes(path, paths) if by_folder else {}
    warnings = tuple(one for one in manifest.warnings if "in no row and left out" in one or "not read" in one)
    if by_folder and _label_column(manifest, reading.columns) is None:
        warnings += tuple(nested_classes(map(str, paths)))
    return FoundDataset(str(manifest.source_root), str(manifest.source_fence), pictures, classes, warnings)


def _read(path: str, renames: Mapping[str, str], reading: Reading) -> Manifest:
    return read_manifest(
        path,
        reading.root,
        reading.allow_http,
        source_fence=reading.fence,
        renames=renames,
        prompt_of_run=True,
        committed_rows=committed_rows,
    )


def _meaning_image(manifest: Manifest) -> list[str]:
    return [name for name in manifest.passthrough.column_names if meant_column(name) == "image" or name == "path"]


def _pictures(manifest: Manifest, path: str, columns: Columns) -> Iterator[Found]:
    passthrough = manifest.passthrough
    _require_columns(passthrough.column_names, columns, path)
    names = _Names(passthrough)
    label_column = _label_column(manifest, columns)
    box_column = columns.boxes or next((name for name in BOXES if name in passthrough.column_names), None)
    for row, values in zip(manifest.iter_rows(), _rows_of(passthrough), strict=True):
        if len(row.sources) != 1:
            what = f"has {len(row.sources)} images" if row.sources else "has no image"
            raise UserError(
                f"{row.location}: {what}: a dataset has one a row; name its column with columns = {{ image = ... }}"
            )
        values = {**{name: getattr(row, name) for name in KNOWN if getattr(row, name) is not None}, **values}
        (source,) = row.sources
        inside = str(values.get(FILE_NAME) or (source.path if not source.embedded else "") or "")
        label = names.label(label_column, values) if label_column else class_of_path(inside)
        if label is not None:
            values["label"] = label
        table = "" if row.location.endswith(source.path or "\0") else _table_name(manifest, row.location)
        split = _split(columns, values, inside, table)
        yield Found(
            source,
            row.id,
            source.name if not source.embedded else row.location,
            label,
            split,
            values,
            root_id=_text(values.get("source_id")),
            group=_text(values.get(columns.group)) if columns.group else None,
            boxes=_boxes(values.get(box_column), label, names, row.location) if box_column else None,
            mask=_text(values.get(columns.mask or "mask"))
            if isinstance(values.get(columns.mask or "mask"), str)
            else None,
        )


def _label_column(manifest: Manifest, columns: Columns) -> str | None:
    """The column that names classes; None: the folders do."""
    return columns.label or next((name for name in LABELS if name in manifest.passthrough.column_names), None)


def _rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    if not table.num_columns:
        yield from ({} for _ in range(table.num_rows))
        return
    for batch in table.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _require_columns(there: Sequence[str], columns: Columns, path: str) -> None:
    for role in ("label", "split", "group", "boxes", "mask"):
        name = getattr(columns, role)
        if name is not None and name not in there and name not in GIVEN:
            words = ", ".join(there) or "none"
            raise UserError(
                f"{path}: has no column {name!r}, which the recipe names for {role}; there are: {words}"
                f"{did_you_mean(name, there)}"
            )


def _table_name(manifest: Manifest, location: str) -> str:
    """The path of the table that a row is in, from the dataset's folder; empty for a dataset of one file."""
    if len(manifest.shown) == 1:
        return os.path.basename(manifest.shown[0])
    shown = location.rpartition(" row ")[0] or location.rpartition(":")[0] or location
    return shown.removeprefix(str(manifest.path).rstrip("/") + "/")


def _split(columns: Columns, values: Mapping[str, Any], path: str, table: str) -> str | None:
    named = values.get(columns.split or "split")
    if named is not None:
        return str(named)
    return split_of_folders(path) or split_of_path(table) or (split_of_name(table) if table else None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


class _Names:
    """Names of classes that a table has as numbers, with the names that `datasets` noted."""

    def __init__(self, passthrough: pa.Table):
        features = huggingface_features(passthrough.schema)
        self._names = {name: _class_names(feature) for name, feature in features.items()}

    def label(self, column: str, values: Mapping[str, Any]) -> str | None:
        """The class of a row, as text."""
        return self.of(column, values.get(column))

    def of(self, column: str, value: Any) -> str | None:
        """A value of a column as the name of a class."""
        names = self._names.get(column)
        if names and isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        return None if value is None or value == -1 else str(value)


def _class_names(feature: Any) -> Sequence[str] | None:
    named = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    return feature.get("names") if named else None


def _boxes(given: Any, label: str | None, names: _Names, location: str) -> list[FoundBox] | None:
    """Boxes as [left, top, width, height] in pixels: a list of them, or a struct as imagefolders have it."""
    if given is None:
        return None
    boxes, labels = given, None
    if isinstance(given, dict):
        boxes = given.get("bbox")
        labels = given.get("categories") or given.get("category") or given.get("label")
    try:
        corners = [_corner(box) for box in boxes]
        its = [label or "" for _ in corners] if labels is None else [str(one) for one in labels]
        return [FoundBox(name, *corner, False) for name, corner in zip(its, corners, strict=True)]
    except (TypeError, ValueError) as error:
        told = json.dumps(given, default=str)[:80]
        raise UserError(
            f"{location}: boxes are {told}: must be a list of [left, top, width, height] in pixels, or bbox and "
            "categories as an imagefolder has them"
        ) from error


def _corner(box: Any) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, box)
    return left, top, width, height


def _folders_of_classes(path: str, paths: Sequence[str | None]) -> dict[str | None, list[str]]:
    """The folders of a dataset that is a folder by class, by split; those without a picture, too."""
    if not os.path.isdir(path) or not any(class_of_path(str(one)) for one in paths):
        return {}
    depth = {len(str(one).split("/")) for one in paths}
    if len(depth) != 1:
        return {}
    found: dict[str | None, list[str]] = {}
    for split in {split_of_folders(str(one)) for one in paths}:
        folder = f"{path}/{split}" if split else path
        if depth != {3 if split else 2} or not os.path.isdir(folder):
            continue
        with os.scandir(folder) as entries:
            found[split] = sorted(one.name for one in entries if one.is_dir() and one.name[0] not in "._")
    return found
