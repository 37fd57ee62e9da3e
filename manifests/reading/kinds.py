"""The kinds of manifests, and which one a path is."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.manifests.reading import other_files
from wanbatch.manifests.reading.arrow_files import ArrowFiles, SavedDataset
from wanbatch.manifests.reading.csv_table import Csv
from wanbatch.manifests.reading.image_folder import ImageFolder
from wanbatch.manifests.reading.jsonl import JsonLines
from wanbatch.manifests.reading.kind import (
    CommittedRowsOf,
    ManifestFiles,
    ManifestKind,
    ManifestPath,
    no_output_folder,
)
from wanbatch.manifests.reading.output_folder import OutputFolderRows
from wanbatch.manifests.reading.parquet import Parquet
from wanbatch.manifests.reading.pictures import Pictures
from wanbatch.manifests.reading.splits import SPLIT, splits_of
from wanbatch.manifests.reading.text_lines import with_compressions
from wanbatch.manifests.storage.hub import pinned
from wanbatch.manifests.storage.urls import absolute, is_url, kind_of
from wanbatch.suggestions import did_you_mean

KINDS: tuple[ManifestKind, ...] = (
    OutputFolderRows(),
    SavedDataset(),
    ImageFolder(),
    Parquet(),
    ArrowFiles(),
    JsonLines(),
    Csv(),
    Pictures(),
)
"""In the order in which they are asked: the first that takes a path reads it."""

ALONE = (*with_compressions((".json",)), ".txt")
"""Endings of files that may hold rows but are not read as parts of a folder, since most of them do not."""


def find_manifest(
    path: str | Path, committed_rows: CommittedRowsOf = no_output_folder, split: str | None = None
) -> tuple[ManifestKind, ManifestFiles]:
    """The kind of the manifest at a path, and the files that it consists of.

    Args:
        path: of a file or folder, or the URL of one.
        committed_rows: says what an output folder of wanbatch holds.
        split: the one to read of several; None: all.
    Raises:
        UserError: There is nothing, or it is no manifest, or has no such split. OSError: It cannot be looked at.
    """
    where = pinned(absolute(path))
    there = kind_of(where)
    if there is None:
        close = _sibling(where)
        hint = f"did you mean {close}?" if close else "check the path"
        raise UserError(f"{path}: there is no such manifest: {hint}")
    looked_at = ManifestPath(path, where, there == "folder", committed_rows)
    if there != "other":
        for kind in KINDS:
            found = kind.find(looked_at)
            if found is not None:
                return kind, _of_split(found, str(path), split)
    *first, last = (kind.takes for kind in KINDS)
    takes = f"{', '.join(first)}, or {last}"
    if there == "folder":
        alone = next((name for name in looked_at.names if name.lower().endswith(ALONE)), None)
        hint = f"; if {alone} has the rows, give {str(path).rstrip('/')}/{alone}" if alone else ""
        raise UserError(f"{path}: is a folder without a manifest: give {takes}{hint}")
    said = other_files.remedy(str(path)) if there == "file" else None
    raise UserError(f"{path}: {said}" if said else f"{path}: is not a manifest: give {takes}")


def _of_split(found: ManifestFiles, shown: str, wanted: str | None) -> ManifestFiles:
    """The files of one split; or all, with a warning if they are of several.

    Args:
        found: the files of a manifest.
        shown: the manifest as the user wrote it.
        wanted: the split; None: all.
    Raises:
        UserError: There is no such split.
    """
    splits = [found.constants_of(index).get(SPLIT) for index in range(len(found.files))]
    there = Counter(split for split in splits if split is not None)
    if wanted is None:
        if len(there) < 2:
            return found
        counts = " and ".join(f"{split} ({count} file{'s' * (count > 1)})" for split, count in sorted(there.items()))
        said = f"{shown}: has the splits {counts}, which are read together; the column {SPLIT!r} says which is which"
        return replace(found, warnings=(*found.warnings, f"{said}, and --split takes one of them"))
    if not there:  # what has one split has no column for it, and can be asked for it
        splits = splits_of([found.relative(index) for index in range(len(splits))], least=1)
    if wanted not in splits:
        names = sorted({split for split in splits if split is not None})
        said = f"has {', '.join(names)}{did_you_mean(wanted, names)}" if names else "has no splits: leave --split out"
        raise UserError(f"--split {wanted}: {shown} {said}")
    kept = [index for index, split in enumerate(splits) if split == wanted]
    files, names = ([its[index] for index in kept] for its in (found.files, found.shown))
    constants = tuple(found.constants[index] for index in kept) if found.constants else ()
    beside = tuple(found.beside[index] for index in kept) if found.beside else ()
    return replace(found, files=tuple(files), shown=tuple(names), constants=constants, beside=beside)


def _sibling(path: str) -> str | None:
    """The name in a local folder that is most like one that is not there, or None."""
    if is_url(path):
        return None
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    return next(iter(get_close_matches(name, names, 1, 0.75)), None)
