"""Masks of training pictures: which belongs to which, and whether they can be used. White is learned from."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.decoding import decode, read_header
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.formats import PICTURE_SUFFIXES
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.urls import is_url
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.training.lora.buckets import bucket, fitted

BESIDE = "beside"
ENDINGS = ("_mask", "-masklabel")
"""What follows a picture's name in that of its mask beside it, as trainers have it."""

MOST_PIXELS = 64_000_000


class MaskedPicture(Protocol):
    """What is asked of a training picture here."""

    @property
    def source(self) -> Source:
        """Where it is."""

    @property
    def location(self) -> str:
        """As messages name it."""


@dataclass(frozen=True, slots=True)
class MaskSet:
    """The masks of a training's pictures.

    Attributes:
        given: What the user gave.
        references: Of each picture's mask, in their order: where it is, or its bytes.
        root: Folder that paths start from.
        fence: Folder that they may not leave.
    """

    given: str
    references: tuple[Source | bytes, ...]
    root: str | Path
    fence: str | Path

    def load(self, locations: Sequence[str]) -> Iterator[np.ndarray]:
        """Read the masks one by one: uint8 `[height, width]`, 255 is white.

        Args:
            locations: Of the pictures, for messages.

        Raises:
            UserError: For one that cannot be read.
        """
        with SourceLoader(self.root, fence=self.fence) as loader:
            for reference, location in zip(self.references, locations, strict=True):
                with _named(location):
                    if isinstance(reference, Source):
                        pixels = loader.load(reference).pixels
                    else:
                        pixels = decode(read_header(io.BytesIO(reference), MOST_PIXELS))
                yield np.asarray(Image.fromarray(pixels).convert("L"))

    def check(self, manifest: Manifest, pictures: Sequence[MaskedPicture], info: ModelInfo, area: int) -> None:
        """Read all masks, and compare their sizes with those of their pictures.

        Args:
            manifest: That the pictures are of.
            pictures: In the order of the masks.
            info: The model, whose sizes pictures are brought to.
            area: Of a picture there, in pixels.

        Raises:
            UserError: For the first mask that cannot be used.
        """
        masks = self.load([picture.location for picture in pictures])
        with SourceLoader(manifest.source_root, fence=manifest.source_fence) as loader:
            for mask, picture in zip(masks, pictures, strict=True):
                try:
                    size = loader.size(picture.source)
                except RowError as error:
                    raise UserError(f"{picture.location}: {error}: mend the picture or take it out") from error
                height, width = mask.shape
                if (width, height) != size:
                    raise UserError(
                        f"{picture.location}: is {size[0]}x{size[1]}, and its mask {width}x{height}: bring the mask "
                        "to the size of its picture"
                    )
                if not mask.any():
                    raise UserError(
                        f"{picture.location}: its mask is all black, so nothing of it would be learned: paint white "
                        "what shall be, or take the picture out"
                    )
                cut = bucket(width, height, info.multiple, area)
                if not np.asarray(fitted(Image.fromarray(mask), cut, Image.Resampling.BILINEAR)).any():
                    raise UserError(
                        f"{picture.location}: all that is white in its mask is cut off where the picture is brought "
                        f"to {cut[0]}x{cut[1]}: crop the picture yourself, or give another --resolution"
                    )


def is_mask_of_another(name: str, names: frozenset[str]) -> bool:
    """Whether a picture is the mask of one beside it, by its name.

    Args:
        name: Path of the picture without its suffix.
        names: Those of all pictures.
    """
    return any(name.endswith(ending) and name.removesuffix(ending) in names for ending in ENDINGS)


def stem(source: Source) -> str | None:
    """The path of a picture without its suffix; None for one without a path."""
    return None if source.path is None or source.embedded else str(PurePosixPath(source.path).with_suffix(""))


def find_masks(
    given: str, manifest: Manifest, pictures: Sequence[MaskedPicture], beside: Sequence[Source], values: Sequence[Any]
) -> MaskSet:
    """Find the mask of every picture; none is opened.

    Args:
        given: A column of the manifest, a folder, or `beside`.
        manifest: That the pictures are of.
        pictures: Of the training.
        beside: Rows of the manifest that are masks of pictures beside them.
        values: Of the column, for each picture; empty if there is no such column.

    Raises:
        UserError: If there are none, or one is missing.
    """
    root, fence = manifest.source_root, manifest.source_fence
    references: list[Source | bytes | None]
    if values:
        references = [_of_column(value) for value in values]
        found = f"its column {given!r} is empty"
    elif given == BESIDE:
        named = {stem(source): source for source in beside}
        references = [_beside(stem(each.source), named, root) for each in pictures]
        found = f"there is no NAME{ENDINGS[0]}.png beside it"
    elif Path(given).is_dir():
        root = fence = str(Path(given).resolve())
        masks = _of_folder(Path(root))
        references = [masks.get(_inside(each.source, manifest)) for each in pictures]
        found = f"{given} has no mask of its name"
    else:
        columns = ", ".join(manifest.passthrough.column_names) or "none"
        raise UserError(
            f"--masks {given}: there is no such folder, and no such column of {manifest.path} (it has {columns}): "
            f"give one of them, or `{BESIDE}` for NAME{ENDINGS[0]}.png beside NAME.png"
        )
    without = [each.location for each, reference in zip(pictures, references, strict=True) if reference is None]
    if without:
        raise UserError(
            f"--masks {given}: {len(without)} of {number_of(len(pictures), 'pictures')} "
            f"{'has' if len(without) == 1 else 'have'} no mask, {without[0]} for one "
            f"({found}): add it, all white to learn all of the picture, or take the picture out"
        )
    return MaskSet(given, tuple(each for each in references if each is not None), root, fence)


def _of_column(value: Any) -> Source | bytes | None:
    """A path, bytes, or an image as `datasets` writes it."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    return Source(value) if isinstance(value, str) and value else None


def _beside(name: str | None, rows: dict[str | None, Source], root: str | Path) -> Source | None:
    """The mask beside a picture: a row of the manifest, or a file."""
    if name is None:
        return None
    for ending in ENDINGS:
        if name + ending in rows:
            return rows[name + ending]
    if is_url(str(root)):
        return None
    paths = [name + ending + suffix for ending in ENDINGS for suffix in PICTURE_SUFFIXES]
    return next((Source(path) for path in paths if (Path(root) / path).exists()), None)


def _of_folder(folder: Path) -> dict[str, Source]:
    """The pictures of a folder and of those in it, by their path in it without suffix.

    Raises:
        UserError: If two have one name, or a folder cannot be read.
    """

    def failed(error: OSError) -> None:
        raise UserError(f"{folder}: the folder of masks cannot be listed: {error}") from error

    found: dict[str, Source] = {}
    for path, folders, names in os.walk(folder, onerror=failed):
        folders.sort()
        for name in sorted(names):
            inside = (Path(path) / name).relative_to(folder)
            if inside.suffix.lower() not in PICTURE_SUFFIXES:
                continue
            key = inside.with_suffix("").as_posix()
            if key in found:
                raise UserError(f"--masks {folder}: has both {found[key].path} and {inside}: take one of them out")
            found[key] = Source(inside.as_posix())
    return found


def _inside(source: Source, manifest: Manifest) -> str:
    """The path of a picture in its folder without suffix; that of its name alone, if it lies elsewhere."""
    name = stem(source)
    if name is None:
        return ""
    path, root = PurePosixPath(name), PurePosixPath(str(manifest.source_root))
    if path.is_absolute():
        return (path.relative_to(root) if path.is_relative_to(root) else PurePosixPath(path.name)).as_posix()
    return path.as_posix()


@contextmanager
def _named(location: str) -> Iterator[None]:
    try:
        yield
    except (RowError, SourceError) as error:
        raise UserError(f"{location}: its mask: {error}: mend the mask or take the picture out") from error
