"""Writing manifests, the same byte for byte for the same rows, and the sources that have no file of their own."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.errors import UserError
from wanbatch.jobs.augment.originals import Original
from wanbatch.manifests.sources.formats import format_of
from wanbatch.manifests.sources.path_policy import is_below
from wanbatch.manifests.storage.atomic_files import ensure_content, make_folder, write_atomic
from wanbatch.manifests.storage.urls import is_url

FORMS = (".jsonl", ".parquet")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}


def require_form(target: Path) -> None:
    """Raises UserError unless a manifest can be written under this name."""
    if target.suffix.lower() not in FORMS:
        raise UserError(f"{target}: give the manifest a name that ends in {' or '.join(FORMS)}")
    if target.is_dir():
        raise UserError(f"{target}: is a folder: give a file that ends in {' or '.join(FORMS)}")


def require_outside(dataset: str, written: Path, remedy: str) -> None:
    """Raises UserError if what is written would be inside a dataset that is a folder, and so be read as part of it.

    Args:
        dataset: path, absolute, or its URL.
        written: a file or folder.
        remedy: how to name another place.
    """
    in_folder = not is_url(dataset) and os.path.isdir(dataset)
    if in_folder and is_below(os.path.realpath(written), os.path.realpath(dataset)):
        raise UserError(f"{written}: is inside the dataset {dataset}, and would be read as part of it: {remedy}")


def write_manifest(target: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a manifest, whole or not at all. Raises UserError if it cannot be written."""
    data = _parquet(rows) if target.suffix.lower() == ".parquet" else _jsonl(rows)
    try:
        make_folder(target.absolute().parent)
        write_atomic(target.absolute(), data)
    except OSError as error:
        raise unwritable(target, error) from error


def unwritable(target: Path, error: OSError) -> UserError:
    """The error for a manifest that the system does not let be written, or be locked before."""
    return UserError(f"{target}: cannot be written ({error.strerror or error}): choose another file")


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="surrogatepass")


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


class SourcePaths:
    """The paths of originals as a manifest has them, relative to its own folder.

    Attributes:
        fence: the folder that holds the manifest and every source named so far, also those behind links, absolute.
    """

    def __init__(self, target: Path, read: Callable[[Original], bytes]):
        """
        Args:
            target: the manifest.
            read: the bytes of an original that is in no local file of its own.
        """
        self._folder = str(target.absolute().parent)
        self._copies = target.absolute().with_name(f"{target.stem}.sources")
        self._read = read
        self._copied: dict[str, str] = {}
        self.fence = self._folder

    def of(self, original: Original) -> str:
        """The path of an original; one without a file is written to a folder beside the manifest first."""
        location = original.location or self._copy(original)
        self._hold(location)
        return os.path.relpath(location, self._folder)

    def include(self, paths: Sequence[str]) -> None:
        """Take sources of rows that there are already into `fence`. paths: as the manifest has them."""
        for path in paths:
            self._hold(os.path.normpath(f"{self._folder}/{path}"))

    def is_there(self, path: str) -> bool:
        """Whether there is a file at a path that a row has. path: as the manifest has it."""
        return os.path.isfile(os.path.normpath(f"{self._folder}/{path}"))

    def _hold(self, location: str) -> None:
        """Widen `fence` if a source is outside of it, as a run sees it, which follows links."""
        real, fence = os.path.realpath(location), os.path.realpath(self.fence)
        if not is_below(real, fence):
            self.fence = os.path.commonpath([fence, real])

    def _copy(self, original: Original) -> str:
        if original.sha256 not in self._copied:
            data = self._read(original)
            path = self._copies / f"{original.sha256}{_SUFFIXES.get(format_of(data[:512]) or '', '.img')}"
            try:
                make_folder(self._copies)
                ensure_content(path, data)
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
            self._copied[original.sha256] = str(path)
        return self._copied[original.sha256]
