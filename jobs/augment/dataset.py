"""Reading a dataset: which reader takes it, and what its pictures look like."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wanbatch.errors import RowError, UserError
from wanbatch.jobs.augment.coco import coco_files, read_coco
from wanbatch.jobs.augment.found import Found, FoundBox, FoundDataset
from wanbatch.jobs.augment.near_copies import fingerprint_of
from wanbatch.jobs.augment.originals import Box, Original
from wanbatch.jobs.augment.tables import Reading, read_table
from wanbatch.jobs.augment.yolo import read_yolo, yolo_file
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.urls import absolute, files_below, is_url, kind_of

LEFT_OUT = ("bad_image", "too_large")
"""Kinds of errors of a picture that cost the picture alone; any other ends the command."""


def find_dataset(path: str, images: str | None, reading: Reading, given: str) -> FoundDataset:
    """What a dataset has, before its pictures are loaded.

    Args:
        path: absolute, or a URL.
        images: the folder that paths in it start from, absolute; None: its own.
        reading: how tables are read.
        given: the path as the recipe has it, for messages.
    Raises:
        UserError: There is none, or it cannot be read.
        MachineryError: The store that holds it does not answer.
    """
    try:
        return _find(path, images, reading, given)
    except OSError as error:
        which = error.filename if isinstance(error.filename, str) else path
        raise UserError(
            f"{which}: cannot be read ({error.strerror or error}): let it be read, or name a dataset without it"
        ) from error


def _find(path: str, images: str | None, reading: Reading, given: str) -> FoundDataset:
    if is_url(path):
        return read_table(path, reading)
    there = kind_of(path)
    if there is None:
        hint = "check the path"
        if re.fullmatch(r"[\w.-]+/[\w.-]+", given):
            hint += f", or write hf://datasets/{given} for a dataset on the Hub"
        raise UserError(f"{path}: there is no such dataset: {hint}")
    names = files_below(path) if there == "folder" else []
    if there == "folder" and not names:
        raise UserError(f"{path}: is an empty folder: put pictures in it, or name another dataset")
    if (file := yolo_file(path, names)) is not None:
        return read_yolo(file)
    if tables := coco_files(path, names):
        folder = path if names else os.path.dirname(path)
        outer = os.path.dirname(folder) if not names and os.path.basename(folder) == "annotations" else folder
        return read_coco(tables, outer, images)
    return read_table(path, replace(reading, root=images or reading.root))


@dataclass(frozen=True, slots=True)
class Loaded:
    """Pictures of a dataset.

    Attributes:
        originals: those that can be read, no two of a class and split with the same bytes.
        sources: of each, by digest: where it is, for those who need its bytes.
        root, fence: as `SourceLoader` takes them.
        warnings: what was left out, a sentence each.
    """

    originals: tuple[Original, ...]
    sources: dict[str, Source]
    root: str
    fence: str
    warnings: tuple[str, ...] = ()


def load_originals(found: FoundDataset, pictures: Sequence[Found], reading: Reading, look: bool) -> Loaded:
    """Load pictures of a dataset one by one; they are not kept.

    Args:
        found: the dataset.
        pictures: of it, those to load.
        reading: whether sources may be on the web.
        look: find out what each looks like, too.
    Raises:
        UserError: A picture is not there, or cannot be read for another reason than what is in it.
        MachineryError: A store does not answer.
    """
    kept: dict[tuple[str | None, str | None, str], Original] = {}
    sources: dict[str, Source] = {}
    refused: list[str] = []
    twice: Counter[str] = Counter()
    with SourceLoader(found.root, allow_http=reading.allow_http, fence=found.fence) as loader:
        for picture in pictures:
            try:
                image = loader.load(picture.source)
            except RowError as error:
                if error.kind not in LEFT_OUT:
                    raise UserError(f"{error}") from error
                refused.append(str(error))
                continue
            location = None if _is_elsewhere(picture.source, loader) else loader.cache_key(picture.source)
            original = _original(picture, image.pixels, image.sha256, location, look)
            if kept.setdefault((original.split, original.label, original.sha256), original) is not original:
                twice[original.name] += 1
            sources.setdefault(original.sha256, picture.source)
    warnings = []
    if refused:
        more = f"; {len(refused) - 1} more like it" if len(refused) > 1 else ""
        warnings.append(f"left out as it cannot be read: {refused[0]}{more}")
    if twice:
        more = f" and {sum(twice.values()) - 1} more" if sum(twice.values()) > 1 else ""
        warnings.append(f"left out as the same file is in its class already: {next(iter(twice))}{more}")
    return Loaded(tuple(kept.values()), sources, found.root, found.fence, tuple(warnings))


def _is_elsewhere(source: Source, loader: SourceLoader) -> bool:
    """Whether a picture is in no local file of its own."""
    if source.embedded or is_url(loader.root):
        return True
    where = loader.cache_key(source)
    return not where.startswith("/") or not Path(where).exists()


def _original(picture: Found, pixels: np.ndarray, sha256: str, location: str | None, look: bool) -> Original:
    height, width = pixels.shape[:2]
    boxes = None
    if picture.boxes is not None:
        boxes = tuple(_box(box, width, height) for box in picture.boxes)
    return Original(
        id=picture.id,
        root_id=picture.root_id or picture.id,
        sha256=sha256,
        label=picture.label,
        split=picture.split,
        width=width,
        height=height,
        name=picture.name,
        columns=picture.columns,
        group=picture.group,
        boxes=boxes,
        mask=picture.mask,
        location=location,
        fingerprint=fingerprint_of(pixels) if look else None,
    )


def _box(box: FoundBox, width: int, height: int) -> Box:
    """A box in fractions of its picture of that size."""
    if box.fractions:
        return Box(box.label, box.left, box.top, box.width, box.height, box.outline)
    outline = box.outline and box.outline.scaled(1 / width, 1 / height)
    return Box(box.label, box.left / width, box.top / height, box.width / width, box.height / height, outline)


def dataset_path(given: str, folder: Path) -> str:
    """A path in a recipe as an absolute one, or a URL in its plain form. folder: of the recipe."""
    return absolute(given) if is_url(given) else absolute(Path(os.path.normpath(folder / os.path.expanduser(given))))
