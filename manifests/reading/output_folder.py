"""An output folder of wanbatch as the next manifest: each image is the source of a row with the same id.

Only what is committed is read, so a folder that is still being filled can be. The settings that made an image are not
asked for again but pass through as `source_...`; the run, or `--map source_prompt=prompt`, says what is made now.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.manifests.columns import WRITTEN
from wanbatch.manifests.reading.column_names import OWN
from wanbatch.manifests.reading.kind import CommittedRows, ManifestFiles, ManifestPath
from wanbatch.manifests.reading.parquet import Parquet
from wanbatch.manifests.reading.validation import Positions, RowChecker
from wanbatch.manifests.storage.urls import is_hub, is_url

KEPT = ("id", "image")
"""Columns of an output folder that a manifest has, too, with the same meaning."""

_PART = re.compile(r"part-\d+\.parquet")
_KINDS = ("data", "timings", "failures")


class OutputFolderRows:
    """An output folder: its committed data parts, in the order of their units."""

    takes = "an output folder of wanbatch"
    positions: Positions = "row"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        _refuse_inside(path)
        held = path.committed_rows(path.absolute) if path.is_folder else None
        if held is None:
            return None
        if not held.parts:
            raise UserError(
                f"{path.given}: no image of this output folder is made yet: wait for its run to make some"
            )
        return replace(path.folder_of(held.parts, _warnings(path, held)), rename=source_name)

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`."""
        return Parquet().read(found, checker)


def source_name(column: str) -> str:
    """What a column of an output folder is called in the manifest that the folder becomes.

    What an earlier pass already called so gets the prefix once more, so that each pass can be told.
    """
    bare = column
    while bare.startswith(OWN) and bare not in WRITTEN:
        bare = bare.removeprefix(OWN)
    return f"{OWN}{column}" if bare in WRITTEN and column not in KEPT else column


def _warnings(path: ManifestPath, held: CommittedRows) -> list[str]:
    warnings = []
    if left := held.rows - held.images - held.quarantined:
        warnings.append(
            f"{path.given}: holds {held.images} of {number_of(held.rows, 'images')} so far, which are read; run "
            f"the same command again for the other {left} once they are made"
        )
    if held.quarantined == 1:
        warnings.append(f"{path.given}: 1 row of it is quarantined; there is no image of it to read")
    elif held.quarantined:
        warnings.append(
            f"{path.given}: {held.quarantined} rows of it are quarantined; there are no images of them to read"
        )
    return warnings


def _refuse_inside(path: ManifestPath) -> None:
    """Raises UserError for what is inside an output folder: of its parts nobody would know which are committed."""
    folder = path.absolute
    if not path.is_folder and _PART.fullmatch(posixpath.basename(folder)):
        folder = posixpath.dirname(folder)
    outer, name = posixpath.split(folder)
    if name in _KINDS and _can_be_folder(outer) and path.committed_rows(outer) is not None:
        raise UserError(f"{path.given}: is inside an output folder of wanbatch: give the whole folder, {outer}")


def _can_be_folder(path: str) -> bool:
    """Whether a path or URL names more than a store: a bucket, or a repository of the Hub."""
    if not is_url(path):
        return path.startswith("/")
    parts = path.partition("://")[2].split("/")
    return bool(parts[0]) and (not is_hub(path) or len(parts) > 2)
