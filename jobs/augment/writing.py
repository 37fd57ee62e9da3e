"""Writing the manifest of a recipe, so that the output folder that it fills can always be gone on with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.augment.augment import Augmentation
from wanbatch.jobs.augment.drawing import Child
from wanbatch.jobs.augment.earlier import Rows, key_of, pool_of
from wanbatch.jobs.augment.filled import filled, require_all_asked, usual_folder
from wanbatch.jobs.augment.manifest_file import SourcePaths, write_manifest
from wanbatch.jobs.augment.map_files import MapFiles
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.rows import manifest_row
from wanbatch.manifests.dataset.held_folder import held_folder
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.backend import open_backend


@dataclass(frozen=True, slots=True)
class Written:
    """A manifest that was written.

    Attributes:
        manifest: its path.
        fence: the folder that holds it and all its sources, absolute.
        rows: all of them, in their order.
        renamed: ids of rows that it had before and that name their pictures by other paths now.
        drop_removed: whether rows may leave its output folder that it does not ask for any more.
    """

    manifest: Path
    fence: str
    rows: Sequence[Mapping[str, Any]]
    renamed: tuple[str, ...] = ()
    drop_removed: bool = False

    @property
    def needs_fence(self) -> bool:
        """Whether a run must be told that sources may be outside the manifest's own folder."""
        return self.fence != str(self.manifest.absolute().parent)


def write_augmentation(
    planned: Augmentation, target: Path, out: str | Path | None = None, drop_removed: bool = False
) -> Written:
    """Write the manifest of what was planned, with the rows that it had before.

    A manifest that must not be replaced, since an output folder holds what it alone asks for, is left as it is.

    Args:
        planned: what is made.
        target: the manifest, as it was planned for.
        out: the output folder that it fills, a path or URL; None: the usual one, if there is one.
        drop_removed: rows may leave the folder that the manifest does not ask for any more.
    Raises:
        UserError: It cannot be written, has no rows, or does not ask for all that the folder holds.
        FolderHeldError: Another manifest is to take its place, or rows are to leave it, and a run still fills the
            folder.
        MachineryError: The folder cannot be read.
    """
    if not planned.children and not planned.earlier:
        raise UserError(f"{planned.dataset}: gives no rows: check classes, split and [hard]")
    folder = usual_folder(target) if out is None else filled(out)
    if folder is None:
        return replace(write_rows(planned, target, planned.children, planned.earlier), drop_removed=drop_removed)
    had = [*planned.replaced, *planned.leaving, *planned.earlier]
    with held_folder(open_backend(folder.out)) if planned.replaced or planned.leaving else nullcontext():
        folder = filled(folder.out) or folder  # as it is now that nobody fills it
        written = rows_to_write(planned, target, planned.children, planned.earlier, folder.made)
        require_all_asked(folder, target, written.rows, had, drop_removed)
        write_manifest(target, written.rows)
    return replace(written, drop_removed=drop_removed)


def write_rows(planned: Augmentation, target: Path, children: Sequence[Child], earlier: Rows = ()) -> Written:
    """Write a manifest of some rows. Raises UserError if it cannot be written.

    Args:
        planned: that they are of.
        target: the manifest, ending in `.jsonl` or `.parquet`.
        children: rows that are new.
        earlier: rows that it had before.
    """
    written = rows_to_write(planned, target, children, earlier)
    write_manifest(target, written.rows)
    return written


def rows_to_write(
    planned: Augmentation, target: Path, children: Sequence[Child], earlier: Rows, made: Collection[str] = ()
) -> Written:
    """What a manifest is to be, which is not written yet; sources and maps that have no file are, beside it.

    Args:
        planned, target, children, earlier: as for `write_rows`.
        made: ids of earlier rows that stay as they are, since their pictures are made; the others name their
            pictures by where these are now.
    Raises:
        UserError: A source or a map cannot be read or written.
    """
    loaded = planned.loaded
    with SourceLoader(loaded.root, allow_http=True, fence=loaded.fence) as loader:
        paths = SourcePaths(target, lambda original: loader.encoded(loaded.sources[original.sha256]))
        maps = MapFiles(target, loader, planned.recipe.objects)
        new = [manifest_row(child, planned.recipe, paths.of, maps.of) for child in children]
        originals = {original.sha256: original for original in loaded.originals}
        masks = {(one.sha256, one.split, one.label): one.mask for one in loaded.originals if one.mask is not None}
        now = [row if row["id"] in made else _with_paths_of_now(row, originals, masks, paths) for row in earlier]
    for row in now:
        paths.include(row.get("images") or [row["image"]])
    renamed = tuple(row["id"] for row, was in zip(now, earlier, strict=True) if row is not was)
    return Written(target, paths.fence, sorted([*now, *new], key=_order), renamed)


def _with_paths_of_now(
    row: Mapping[str, Any], originals: Mapping[str, Original], masks: Mapping[Any, str], paths: SourcePaths
) -> Mapping[str, Any]:
    """A row with the paths that its pictures have by now, of those that are not where it says; else the same row.

    Its mask, if it has one, is the one that the dataset has of its first picture.

    Args:
        row: that the manifest had before.
        originals: by the digests of their files.
        masks: by digest, split and class: the paths of those that have one.
        paths: of originals.
    """
    if (mask := masks.get((row["source_sha256"], *pool_of(row)))) not in (None, row.get("mask")) and "mask" in row:
        row = {**row, "mask": mask}
    had = row.get("images") or [row["image"]]
    now = [
        paths.of(originals[parent["sha256"]]) if parent["sha256"] in originals and not paths.is_there(path) else path
        for path, parent in zip(had, row["parents"], strict=True)
    ]
    if now == had:
        return row
    return {**row, "images": now} if "images" in row else {**row, "image": now[0]}


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    split, label = pool_of(row)
    return split or "", label or "", *key_of(row)
