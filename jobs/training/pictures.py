"""The pictures and captions of a training, out of whatever a manifest can be: a folder, Parquet, an output folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import RowError, UserError
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.training.lora.captions import fill
from wanbatch.pipeline.training.lora.examples import Picture

CAPTION_COLUMNS = ("source_prompt", "caption", "text")
"""Columns that are taken for captions where no row has a prompt, the first that is there."""

HOW_TO_CAPTION = (
    "put NAME.txt beside NAME.png, or a metadata.jsonl with file_name and prompt, or give one for all with --caption"
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
    """

    path: str | Path
    manifest: Manifest
    found: tuple[Captioned, ...]
    warnings: tuple[str, ...]

    def load(self) -> Iterator[Picture]:
        """Read the pictures one by one.

        Raises:
            UserError: For one that cannot be read, with its location.
        """
        with SourceLoader(self.manifest.source_root, fence=self.manifest.source_fence) as loader:
            for each in self.found:
                try:
                    pixels = loader.load(each.source).pixels
                except RowError as error:
                    raise UserError(f"{each.location}: {error}: mend the picture or take it out") from error
                yield Picture(pixels, each.caption)


def find_pictures(path: str | Path, template: str, trigger: str | None, caption: str | None) -> PictureSet:
    """Find the pictures of a training; none is opened.

    Args:
        path: A folder of pictures, a Parquet file, an output folder, or any other manifest whose rows have an image.
        template: See `captions.fill`.
        trigger: See `captions.fill`.
        caption: Of pictures that have none; None: these are left out, with a warning.

    Raises:
        ManifestError: With all problems of the rows.
        UserError: If there is no picture, or none has a caption.
    """
    manifest = _read(path)
    found, without, imageless = [], [], []
    for row in manifest.iter_rows():
        if not row.sources:
            imageless.append(row.location)
            continue
        if len(row.sources) > 1:
            raise UserError(f"{row.location}: blends {len(row.sources)} images: a training picture is one image")
        said = row.prompt or caption
        if said is None:
            without.append(row.location)
            continue
        found.append(Captioned(row.sources[0], fill(template, said, trigger), row.location))
    if not found and without:
        raise UserError(f"{path}: none of its {len(without)} pictures has a caption: {HOW_TO_CAPTION}")
    if not found:
        raise UserError(f"{path}: no row of it has an image: give a folder of pictures, or a dataset with images")
    warnings = [*manifest.all_warnings]
    for left, why in ((without, "no caption"), (imageless, "no image")):
        if left:
            warnings.append(f"{path}: {_rows(len(left))} left out that {_have(len(left))} {why}, {left[0]} for one")
    return PictureSet(path, manifest, tuple(found), tuple(warnings))


def _read(path: str | Path) -> Manifest:
    """The manifest, with the column that captions are in taken for prompts if no row has one."""
    manifest = read_manifest(path, committed_rows=committed_rows, prompt_of_run=True)
    if manifest.rows["prompt"].null_count < len(manifest):
        return manifest
    for column in CAPTION_COLUMNS:
        if column in manifest.passthrough.column_names:
            return read_manifest(path, committed_rows=committed_rows, prompt_of_run=True, renames={column: "prompt"})
    return manifest


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
