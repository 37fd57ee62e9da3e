"""The sources of pictures that are checked, as the manifest of their folder has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.jobs.augment.measures import blended, measure, small
from wanbatch.jobs.config.settings import recorded_settings
from wanbatch.manifests.dataset.status import RUN, committed_rows
from wanbatch.manifests.reading.arrow_rows import source_of
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import fit

KEPT = 256
"""Sources that are kept at the size of a picture, for the pictures that follow."""


@dataclass(frozen=True, slots=True)
class FittedSource:
    """A source, or a mixture of several, at the size of a picture."""

    small: np.ndarray
    sharpness: float


class CheckedSources:
    """The sources of a folder's pictures, as its manifest has them."""

    def __init__(self, plan: Mapping[str, Any]):
        """plan: as the folder has noted it."""
        self._missing, self._first_missing = 0, ""
        self._loader: SourceLoader | None = None
        self._known: dict[tuple[Any, ...], FittedSource] = {}
        self._index: _SourcesById | None = None
        self._unread: str | None = None
        self._plan = plan

    def __enter__(self) -> CheckedSources:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loader is not None:
            self._loader.close()

    def of(self, row: Mapping[str, Any]) -> FittedSource | None:
        """The source of a picture, if it can be had and is the one that the picture was made from."""
        try:
            references = self._references(row)
            made_from = tuple((one["sha256"], one["weight"]) for one in row["sources"])
            key = (made_from, row["width"], row["height"])
            if key not in self._known:
                if len(self._known) > KEPT:
                    self._known.clear()
                self._known[key] = self._fitted(references, row)
            return self._known[key]
        except (RowError, LookupError) as error:
            self._first_missing = self._first_missing or f"{row['id']!r} for one: {error}"
            self._missing += 1
            return None

    def warnings(self) -> tuple[str, ...]:
        """What to say of sources that were not to be had, a sentence each."""
        if not self._missing:
            return ()
        return (f"not compared with their sources: {number_of(self._missing, 'pictures')}, {self._first_missing}",)

    def _references(self, row: Mapping[str, Any]) -> tuple[Source, ...]:
        if self._index is None and self._unread is None:
            self._read()
        base = row["id"]
        found = self._index and self._index.of(base)
        if not found and row["variant"] is not None:
            found = self._index and self._index.of(base.removesuffix(f"-{row['variant']}"))
        if not found:
            raise LookupError(self._unread or "the manifest does not ask for it any more")
        return found

    def _read(self) -> None:
        try:
            settings = recorded_settings(self._plan["settings"], RUN)
            manifest = read_manifest(
                self._plan["manifest"],
                settings.source_root,
                settings.allow_http,
                source_fence=settings.source_fence,
                renames=settings.map,
                prompt_of_run=True,
                committed_rows=committed_rows,
                split=settings.split,
            )
        except UserError as error:
            self._unread = f"the manifest cannot be read ({str(error).splitlines()[0]})"
            return
        self._loader = SourceLoader(manifest.source_root, allow_http=settings.allow_http, fence=manifest.source_fence)
        self._index = _SourcesById(manifest)

    def _fitted(self, references: Sequence[Source], row: Mapping[str, Any]) -> FittedSource:
        assert self._loader is not None
        loaded = [self._loader.load(source) for source in references]
        if [one.sha256 for one in loaded] != [one["sha256"] for one in row["sources"]]:
            raise LookupError("its source has changed since it was made")
        fitted = [fit(one.pixels, row["width"], row["height"]) for one in loaded]
        weights = [one["weight"] for one in row["sources"]]
        sharp = [measure(one).sharpness for one in fitted]
        return FittedSource(blended([small(one) for one in fitted], weights), sum(sharp) / len(sharp))


class _SourcesById:
    """Finds the sources of a manifest's rows by their ids; it keeps 16 bytes a row beside the manifest."""

    def __init__(self, manifest: Manifest):
        self._ids, self._sources, self._files = manifest.rows["id"], manifest.rows["sources"], manifest.files
        hashes = [np.fromiter(map(hash, batch.to_pylist()), np.int64, len(batch)) for batch in self._ids.chunks]
        together = np.concatenate(hashes) if hashes else np.zeros(0, np.int64)
        self._order = np.argsort(together, kind="stable")
        self._hashes = together[self._order]

    def of(self, name: str) -> tuple[Source, ...]:
        """The sources of the row with an id; none if it has none, or there is no such row."""
        first = np.searchsorted(self._hashes, hash(name), "left")
        last = np.searchsorted(self._hashes, hash(name), "right")
        for place in self._order[first:last].tolist():  # several ids may have one hash
            if self._ids[place].as_py() == name:
                return tuple(source_of(one, self._files) for one in self._sources[place].as_py() or ())
        return ()
