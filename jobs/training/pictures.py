"""The pictures and captions of a training, out of whatever a manifest can be: a folder, Parquet, an output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.jobs.training.masks import BESIDE, MaskSet, find_masks, is_mask_of_another, stem
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import Row, Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.training.lora.captions import fill
from wanbatch.pipeline.training.lora.examples import Picture

CAPTION_COLUMNS = ("source_prompt", "caption", "text")
"""Columns that are taken for captions where no row has a prompt, the first that is there."""

HOW_TO_CAPTION = (
    "put NAME.txt beside NAME.png, or a metadata.jsonl with file_name and prompt, or say with --map COLUMN=prompt "
    "which column they are in"
)


@dataclass(frozen=True, slots=True)
class Captioned:
    """One training picture, not read yet.

    Attributes:
        source: Where it is.
        caption: In its template.
        location: As messages name it.
    """

    source: Source
    caption: str
    location: str


@dataclass(frozen=True, slots=True)
class PictureSet:
    """The pictures of a training.

    Attributes:
        path: As the user gave it.
        manifest: That they are rows of.
        found: Those that have a caption.
        warnings: What is left out, one sentence each.
        masks: Of the pictures; None: they have none.
    """

    path: str | Path
    manifest: Manifest
    found: tuple[Captioned, ...]
    warnings: tuple[str, ...]
    masks: MaskSet | None = None

    def load(self) -> Iterator[Picture]:
        """Read the pictures one by one.

        Raises:
            UserError: For one that cannot be read, with its location.
        """
        with SourceLoader(self.manifest.source_root, fence=self.manifest.source_fence) as loader:
            masks = repeat(None) if self.masks is None else self.masks.load([each.location for each in self.found])
            for each, mask in zip(self.found, masks, strict=False):
                try:
                    pixels = loader.load(each.source).pixels
                except RowError as error:
                    raise UserError(f"{each.location}: {error}: mend the picture or take it out") from error
                yield Picture(pixels, each.caption, mask)


def find_pictures(
    path: str | Path,
    template: str,
    trigger: str | None,
    caption: str | None,
    masks: str | None = None,
    renames: Mapping[str, str] = MappingProxyType({}),
    one_for_all: bool = True,
) -> PictureSet:
    """Find the pictures of a training; none is opened.

    Args:
        path: A folder of pictures, a Parquet file, an output folder, or any other manifest whose rows have an image.
        template: See `captions.fill`.
        trigger: See `captions.fill`.
        caption: Of pictures that have none; None: these are left out, with a warning.
        masks: Where their masks are, see `find_masks`; None: they have none.
        renames: Columns that are read as others.
        one_for_all: Whether the user may give a caption for all that have none, as messages then say.

    Raises:
        ManifestError: With all problems of the rows.
        UserError: If there is no picture, or none has a caption, or one has no mask.
    """
    manifest = _read(path, dict(renames))
    taken = _sorted_rows(manifest, caption)
    found = [Captioned(row.sources[0], fill(template, said, trigger), row.location) for _, row, said in taken.found]
    if not found and taken.without:
        raise UserError(
            f"{path}: none of its {number_of(len(taken.without), 'pictures')} has a caption: {HOW_TO_CAPTION}"
            + (", or give one for all with --caption" if one_for_all else "")
        )
    if not found:
        raise UserError(f"{path}: no row of it has an image: give a folder of pictures, or a dataset with images")
    warnings = [*manifest.warnings]
    warnings += [f"{path}: {column.message}" for column in manifest.unused_columns if column.column != masks]
    for left, why in ((taken.without, "no caption"), (taken.imageless, "no image")):
        if left:
            warnings.append(f"{path}: {_rows(len(left))} left out that {_have(len(left))} {why}, {left[0]} for one")
    if masks is None and taken.masks:
        warnings.append(
            f"{path}: {_rows(len(taken.masks))} left out that by the name would be a mask of the picture beside it, "
            f"{taken.masks[0].name} for one: give --masks {BESIDE}, or other names"
        )
    beside = None
    if masks is not None:
        values = _values(manifest, masks, [index for index, _, _ in taken.found])
        beside = find_masks(masks, manifest, found, taken.masks, values)
    return PictureSet(path, manifest, tuple(found), tuple(warnings), beside)


def renames_of_each(paths: Sequence[str | Path], renames: Mapping[str, str]) -> list[Mapping[str, str]]:
    """Columns of several manifests that are read as others: of each manifest those that it has.

    Args:
        paths: Of manifests, see `find_pictures`.
        renames: Column -> what it is read as.

    Returns:
        The same for each manifest, in the order of `paths`.

    Raises:
        ManifestError: With all problems of the rows of one.
        UserError: If none has one of the columns.
    """
    if len(paths) < 2 or not renames:
        return [renames] * len(paths)
    absent = [_manifest(path, renames, all_renamed=False).not_renamed for path in paths]
    for column in renames:
        if all(column in each for each in absent):
            raise UserError("; ".join(f"{path}: {each[column]}" for path, each in zip(paths, absent, strict=True)))
    return [{column: target for column, target in renames.items() if column not in each} for each in absent]


@dataclass(frozen=True, slots=True)
class _Taken:
    """The rows of a manifest: index, row and caption of those that are pictures to train on, and what others lack."""

    found: list[tuple[int, Row, str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    imageless: list[str] = field(default_factory=list)
    masks: list[Source] = field(default_factory=list)


def _sorted_rows(manifest: Manifest, caption: str | None) -> _Taken:
    """Tell pictures from masks beside them, and from rows without a caption or an image."""
    rows = list(manifest.iter_rows())
    names = frozenset(name for row in rows for source in row.sources[:1] if (name := stem(source)) is not None)
    taken = _Taken()
    for index, row in enumerate(rows):
        if not row.sources:
            taken.imageless.append(row.location)
            continue
        if len(row.sources) > 1:
            raise UserError(f"{row.location}: blends {len(row.sources)} images: a training picture is one image")
        name, said = stem(row.sources[0]), row.prompt or caption
        if not row.prompt and name is not None and is_mask_of_another(name, names):
            taken.masks.append(row.sources[0])
        elif said is None:
            taken.without.append(row.location)
        else:
            taken.found.append((index, row, said))
    return taken


def _values(manifest: Manifest, column: str, rows: Sequence[int]) -> list[Any]:
    """The values of a column in some rows; none if there is no such column."""
    if column not in manifest.passthrough.column_names:
        return []
    return manifest.passthrough[column].take(rows).to_pylist()


def _manifest(path: str | Path, renames: Mapping[str, str], all_renamed: bool = True) -> Manifest:
    return read_manifest(
        path, committed_rows=committed_rows, prompt_of_run=True, renames=renames, all_renamed=all_renamed
    )


def _read(path: str | Path, renames: Mapping[str, str]) -> Manifest:
    """The manifest, with the column that captions are in taken for prompts if no row has one."""
    manifest = _manifest(path, renames)
    if manifest.rows["prompt"].null_count < len(manifest):
        return manifest
    for column in CAPTION_COLUMNS:
        if column in manifest.passthrough.column_names:
            return _manifest(path, {**renames, column: "prompt"})
    return manifest


def _rows(count: int) -> str:
    return number_of(count, "rows", "is", "are")


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
