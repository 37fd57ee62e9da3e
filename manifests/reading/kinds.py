"""The kinds of manifests, and which one a path is."""

from __future__ import annotations

import os
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
from wanbatch.manifests.reading.text_lines import with_compressions
from wanbatch.manifests.storage.hub import pinned
from wanbatch.manifests.storage.urls import absolute, is_url, kind_of

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
    path: str | Path, committed_rows: CommittedRowsOf = no_output_folder
) -> tuple[ManifestKind, ManifestFiles]:
    """The kind of the manifest at a path, and the files that it consists of.

    Args:
        path: of a file or folder, or the URL of one.
        committed_rows: says what an output folder of wanbatch holds.
    Raises:
        UserError: There is nothing, or it is no manifest. OSError: It cannot be looked at.
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
                return kind, found
    *first, last = (kind.takes for kind in KINDS)
    takes = f"{', '.join(first)}, or {last}"
    if there == "folder":
        alone = next((name for name in looked_at.names if name.lower().endswith(ALONE)), None)
        hint = f"; if {alone} has the rows, give {str(path).rstrip('/')}/{alone}" if alone else ""
        raise UserError(f"{path}: is a folder without a manifest: give {takes}{hint}")
    said = other_files.remedy(str(path)) if there == "file" else None
    raise UserError(f"{path}: {said}" if said else f"{path}: is not a manifest: give {takes}")


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
