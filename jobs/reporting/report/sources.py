"""The source pictures that images were made from, small, for the report; read as a run reads them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from wanbatch.errors import MachineryError, RowError, UserError
from wanbatch.jobs.reporting.report.thumbnails import SIDE, Thumbnail, thumbnail
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import LoadedImage, SourceLoader
from wanbatch.manifests.sources.web_address import is_web_address

WITHOUT_IMAGES = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".csv", ".tsv")
"""Manifests that have no images inside."""

FindManifest = Callable[[], Manifest | None]
"""The manifest of a run, read when it is first asked for; None if it cannot be read."""


@dataclass(frozen=True, slots=True)
class SourceThumbnail:
    """A source as the report shows it.

    Attributes:
        name: its path, or what the manifest calls it.
        thumbnail: small; None if it is not shown.
        problem: why not, in words; None if it is.
    """

    name: str
    thumbnail: Thumbnail | None
    problem: str | None = None


class SourceThumbnails:
    """Finds the sources of images and makes them small, each distinct one once. May be used by several threads."""

    def __init__(self, plan: Mapping[str, Any], manifest: FindManifest | None = None, side: int = SIDE):
        """Read nothing yet.

        Args:
            plan: what the folder's `run.json` records of the run that made the images.
            manifest: its manifest, where that is at hand; default: it is read again if it may be needed.
            side: pixels of the longer side, at most.
        """
        settings = plan.get("settings", {})
        root = settings.get("source_root") or os.path.dirname(str(plan.get("manifest", "."))) or "."
        self._manifest, self._side = cache(manifest or manifest_of(plan)), side
        self._lock = threading.Lock()
        self._loader = SourceLoader(root, fence=settings.get("source_fence"))
        self._rows: dict[int, int] | None = None
        self._known: dict[tuple, SourceThumbnail] = {}

    def of(self, record: Mapping[str, Any]) -> list[SourceThumbnail]:
        """The sources of an image, by its row of `data/`."""
        found = []
        for index, used in enumerate(record.get("sources") or ()):
            key = (used["path"], used["sha256"])
            with self._lock:
                if key not in self._known:
                    self._known[key] = self._load(record, index, used)
                found.append(self._known[key])
        return found

    def _load(self, record: Mapping[str, Any], index: int, used: Mapping[str, Any]) -> SourceThumbnail:
        name = used["path"] or f"picture {index + 1} of manifest row {record['manifest_row']}"
        if is_web_address(used["path"] or ""):
            return SourceThumbnail(name, None, "on the web; a report fetches nothing")
        try:
            loaded = self._read(record, index, used)
        except (RowError, UserError, MachineryError) as error:
            return SourceThumbnail(name, None, str(getattr(error, "message", error)))
        if loaded is None:
            return SourceThumbnail(name, None, "it has changed, or is gone, since the picture was made")
        return SourceThumbnail(name, thumbnail(Image.fromarray(loaded.pixels), self._side))

    def _read(self, record: Mapping[str, Any], index: int, used: Mapping[str, Any]) -> LoadedImage | None:
        """A source by its path; if that is only the name of an embedded one, by the row of the manifest."""
        problem: RowError | None = None
        if used["path"]:
            try:
                loaded = self._loader.load(Source(used["path"]))
                if used["sha256"] in (None, loaded.sha256):
                    return loaded
            except RowError as error:
                problem = error
        source = self._embedded(record["manifest_row"], index)
        if source is None:
            if problem is not None:
                raise problem
            return None
        loaded = self._loader.load(source)
        return loaded if used["sha256"] in (None, loaded.sha256) else None

    def _embedded(self, number: int, index: int) -> Source | None:
        """Where the bytes of an embedded source are; None if the manifest has no embedded ones, or is gone."""
        if (manifest := self._manifest()) is None:
            return None
        if self._rows is None:
            self._rows = {number: row for row, number in enumerate(manifest.rows["number"].to_pylist())}
        row = self._rows.get(number)
        sources = () if row is None else manifest.row(row).sources
        return sources[index] if index < len(sources) and sources[index].embedded else None


def manifest_of(plan: Mapping[str, Any], only_with_images: bool = True) -> FindManifest:
    """A function that reads the manifest of a folder again.

    Args:
        plan: what the folder's `run.json` records of it.
        only_with_images: do not read it if it can have no embedded images.
    """

    def read() -> Manifest | None:
        path, settings = plan.get("manifest"), plan.get("settings", {})
        if path is None or (only_with_images and str(path).endswith(WITHOUT_IMAGES)):
            return None
        try:
            return read_manifest(
                path,
                settings.get("source_root"),
                bool(settings.get("allow_http")),
                source_fence=settings.get("source_fence"),
                renames=settings.get("map"),
                prompt_of_run=settings.get("prompt") is not None,
                committed_rows=committed_rows,
                split=settings.get("split"),
            )
        except (UserError, MachineryError):
            return None

    return read
