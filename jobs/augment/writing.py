"""Writing the manifest of a recipe, so that the output folder that it fills can always be gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.jobs.augment.augment import Augmentation
from wanbatch.jobs.augment.drawing import Child
from wanbatch.jobs.augment.earlier import Rows, key_of, pool_of
from wanbatch.jobs.augment.filled import filled, nobody_fills, require_all_asked, usual_folder
from wanbatch.jobs.augment.manifest_file import SourcePaths, write_manifest
from wanbatch.jobs.augment.map_files import MapFiles
from wanbatch.jobs.augment.rows import manifest_row
from wanbatch.manifests.sources.loader import SourceLoader


@dataclass(frozen=True, slots=True)
class Written:
    """A manifest that was written. fence: the folder that holds it and all its sources, absolute."""

    manifest: Path
    fence: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def needs_fence(self) -> bool:
        """Whether a run must be told that sources may be outside the manifest's own folder."""
        return self.fence != str(self.manifest.absolute().parent)


def write_augmentation(planned: Augmentation, target: Path, out: str | Path | None = None) -> Written:
    """Write the manifest of what was planned, with the rows that it had before.

    A manifest that must not be replaced, since an output folder holds what it alone asks for, is left as it is.

    Args:
        planned: what is made.
        target: the manifest, as it was planned for.
        out: the output folder that it fills, a path or URL; None: the usual one, if there is one.
    Raises:
        UserError: It cannot be written, has no rows, or does not ask for all that the folder holds.
        FolderHeldError: Another manifest is to take its place, and a run still fills the folder.
        MachineryError: The folder cannot be read.
    """
    if not planned.children and not planned.earlier:
        raise UserError(f"{planned.dataset}: gives no rows: check classes, split and [hard]")
    folder = usual_folder(target) if out is None else filled(out)
    if folder is None:
        return write_rows(planned, target, planned.children, planned.earlier)
    with nobody_fills(folder.out) if planned.replaced else nullcontext():
        folder = filled(folder.out) or folder  # as it is now that nobody fills it
        found, fence = manifest_rows(planned, target, planned.children, planned.earlier)
        require_all_asked(folder, target, found, planned.replaced or planned.earlier)
        write_manifest(target, found)
    return Written(target, fence, found)


def write_rows(planned: Augmentation, target: Path, children: Sequence[Child], earlier: Rows = ()) -> Written:
    """Write a manifest of some rows. Raises UserError if it cannot be written.

    Args:
        planned: that they are of.
        target: the manifest, ending in `.jsonl` or `.parquet`.
        children: rows that are new.
        earlier: rows that it had before.
    """
    rows, fence = manifest_rows(planned, target, children, earlier)
    write_manifest(target, rows)
    return Written(target, fence, rows)


def manifest_rows(
    planned: Augmentation, target: Path, children: Sequence[Child], earlier: Rows
) -> tuple[list[Mapping[str, Any]], str]:
    """The rows of a manifest in their order, and the folder that holds it and all its sources.

    Sources and maps that are in no file of their own are written beside the manifest.

    Args:
        planned, target, children, earlier: as for `write_rows`.
    Raises:
        UserError: A source or a map cannot be read or written.
    """
    loaded = planned.loaded
    with SourceLoader(loaded.root, allow_http=True, fence=loaded.fence) as loader:
        paths = SourcePaths(target, lambda original: loader.encoded(loaded.sources[original.sha256]))
        maps = MapFiles(target, loader, planned.recipe.objects)
        new = [manifest_row(child, planned.recipe, paths.of, maps.of) for child in children]
    for row in earlier:
        paths.include(row.get("images") or [row["image"]])
    return sorted([*earlier, *new], key=_order), paths.fence


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    split, label = pool_of(row)
    return split or "", label or "", *key_of(row)
