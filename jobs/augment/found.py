"""What readers of datasets give: pictures that are not loaded yet. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wanbatch.jobs.augment.outlines import Outline
from wanbatch.manifests.records import Source

TRAIN = ("train", "training")
SPLITS = (*TRAIN, "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout", "held_out")
"""Names of folders and beginnings of names of files that are taken for those of a split, in any case."""

BETWEEN = ("images", "imgs", "img", "pictures", "data")
"""Names of folders between those of a split and its pictures that are taken for no class."""

_SPLIT_FILE = re.compile(rf"(?:^|[_.-])({'|'.join(SPLITS)})(?=\d*(?:[_.-]|$))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FoundBox:
    """A box as the dataset has it: its upper left corner and its size, in pixels or in fractions of the picture.

    outline: of the object in it, in the same unit; None: the dataset has the box alone.
    """

    label: str
    left: float
    top: float
    width: float
    height: float
    fractions: bool
    outline: Outline | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One picture of a dataset, not loaded yet; see `Original` for what the others mean.

    Attributes:
        source: where its file is.
        name: what messages call it.
    """

    source: Source
    id: str
    name: str
    label: str | None = None
    split: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    root_id: str | None = None
    group: str | None = None
    boxes: Sequence[FoundBox] | None = None
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class FoundDataset:
    """What a dataset has before its pictures are loaded.

    Attributes:
        root: the folder that paths start from, absolute, or its URL.
        fence: the folder that no picture may be outside of, likewise.
        pictures: in the order of the dataset.
        classes: those that the dataset names, whether they have pictures or not, by split (None: of all splits).
        warnings: what of it is not read, a sentence each.
    """

    root: str
    fence: str
    pictures: Sequence[Found]
    classes: Mapping[str | None, Sequence[str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def column_names(self) -> list[str]:
        """The columns that any picture has, in the order in which they appear."""
        return list(dict.fromkeys(name for picture in self.pictures for name in picture.columns))


def split_of_path(path: str) -> str | None:
    """The split that a path names: by a folder, the outermost that is called so, or by the name of the file."""
    *folders, name = path.split("/")
    for folder in folders:
        if folder.lower() in SPLITS:
            return folder
    return split_of_name(name)


def split_of_name(name: str) -> str | None:
    """The split that the name of a table names, as `train-00000-of-00002.parquet` and `instances_val2017.json` do."""
    found = _SPLIT_FILE.search(posixpath.splitext(name)[0])
    return found[1].lower() if found else None


def split_of_folders(path: str) -> str | None:
    """The folder of a path that is called like a split, or None."""
    return next((folder for folder in path.split("/")[:-1] if folder.lower() in SPLITS), None)


def class_of_path(path: str) -> str | None:
    """The class that a picture's path names: the folder that it is in, unless that is the split's own."""
    folders = path.split("/")[:-1]
    split = split_of_folders(path)
    if split is not None:
        folders = folders[folders.index(split) + 1 :]
    return folders[-1] if folders and folders[-1].lower() not in BETWEEN else None


def nested_classes(paths: Iterable[str]) -> list[str]:
    """What to say of folders of classes inside those of other classes, a sentence. paths: of pictures."""
    folders = {posixpath.dirname(path): class_of_path(path) for path in paths}
    nested = [(one, outer) for one in sorted(folders) if folders[one] and (outer := _outer_class(one, folders))]
    if not nested:
        return []
    first, outer = nested[0]
    more = f", and {len(nested) - 1} more folders are like it" if len(nested) > 1 else ""
    return [
        f"{first} is inside the folder of a class, and its pictures are of class {folders[first]!r}, not {outer!r}"
        f"{more}: if that is wrong, name classes in a metadata.csv with the columns file_name and label"
    ]


def _outer_class(folder: str, folders: Mapping[str, str | None]) -> str | None:
    """The class of the nearest folder around a folder that has pictures of a class itself."""
    while folder := posixpath.dirname(folder):
        if folders.get(folder):
            return folders[folder]
    return None
