"""`wanbatch check`: measuring the pictures of an output folder, and writing what was found beside them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.measures import blended, distance, measure, small
from wanbatch.jobs.augment.near_copies import Fingerprint, NearCopies, fingerprint_of
from wanbatch.jobs.augment.verdicts import COLUMNS, Checked, by_class, by_reason, columns_of, judge, learnt_bands
from wanbatch.jobs.config.settings import recorded_settings
from wanbatch.manifests.dataset.card import refresh_card
from wanbatch.manifests.dataset.checks import REJECTED_BY, write_checks
from wanbatch.manifests.dataset.commit_log import read_commit_log
from wanbatch.manifests.dataset.committed_parts import opened_part
from wanbatch.manifests.dataset.held_folder import held_folder
from wanbatch.manifests.dataset.status import RUN, committed_rows, status
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.backend import StorageBackend, open_backend
from wanbatch.pipeline.core.requests import fit

ROWS = 64
"""Pictures that are read at a time."""

Classes = Mapping[str, Collection[str]]
"""By the digests of pictures: their classes in the splits that are augmented; none, if they are held out."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `wanbatch check` found.

    Attributes:
        out: the output folder.
        pictures: all of them, in the order of the manifest.
        bands: the distances that were allowed, given or learnt.
        warnings: what could not be checked, a sentence each.
        folder: numbers about the folder as a whole, such as `kid`.
    """

    out: str
    pictures: tuple[Checked, ...]
    bands: tuple[Band, ...]
    warnings: tuple[str, ...]
    folder: Mapping[str, float] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """How many pictures are rejected."""
        return sum(bool(one.rejected_by) for one in self.pictures)

    def as_json(self) -> dict[str, Any]:
        """What a script may want to read, and what is noted in the folder."""
        return {
            "pictures": len(self.pictures),
            "rejected": self.rejected,
            "rejected_by": by_reason(self.pictures),
            "classes": [asdict(one) for one in by_class(self.pictures)],
            "bands": [band.model_dump(mode="json") for band in self.bands],
            "folder": dict(self.folder),
            "warnings": list(self.warnings),
        }


class Reader:
    """What is shown each picture with its pixels, and says at last what it found; for the user's own models."""

    def see(self, one: Checked, pixels: np.ndarray) -> None:
        """Look at a picture. pixels: uint8 [rows, columns, 3]."""

    def finish(self) -> Mapping[str, float]:
        """Fill in what was found of each picture; returns numbers about the folder as a whole."""
        return {}


def check_folder(
    out: str | Path,
    checks: Checks,
    held_out: Sequence[Fingerprint] = (),
    readers: Sequence[Reader] = (),
    classes: Classes | None = None,
) -> CheckReport:
    """Measure all pictures of an output folder and write `checks/` beside them; no picture is changed.

    Args:
        out: path or URL of the folder.
        checks: from where on a picture is rejected.
        held_out: what pictures look like that none may be a copy of.
        readers: the user's own models.
        classes: of the pictures of the dataset that the folder was made from.
    Raises:
        UserError: It is no output folder, has no pictures, or a part of it is damaged.
        FolderHeldError: A run writes to it.
        MachineryError: It cannot be read or written.
    """
    _parts(out)
    backend = open_backend(out)
    with held_folder(backend):
        parts = _parts(out)  # as they are now that none changes
        return _check(backend, out, parts, checks, held_out, readers, classes or {})


def _parts(out: str | Path) -> Sequence[str]:
    """The parts with pictures of an output folder. Raises UserError if there are none."""
    held = committed_rows(str(out))
    if held is None or not held.parts:
        raise UserError(
            f"{out}: has no pictures to check: {'give an output folder' if held is None else 'run first'}"
        )
    return held.parts


def _check(
    backend: StorageBackend,
    out: str | Path,
    parts: Sequence[str],
    checks: Checks,
    held_out: Sequence[Fingerprint],
    readers: Sequence[Reader],
    classes: Classes,
) -> CheckReport:
    sources = _Sources(status(out)["plan"])
    copies = NearCopies(held_out) if held_out else None
    by_part: dict[str, list[Checked]] = {}
    with sources:
        for part in parts:
            its = by_part.setdefault(part, [])
            for row in _rows(backend, part):
                its.append(_measured(row, sources, copies, readers))
                its[-1].source_moved = _has_moved(row, classes)
    pictures = [one for its in by_part.values() for one in its]
    pictures.sort(key=lambda one: (one.manifest_row, one.variant))
    folder: dict[str, float] = {}
    for reader in readers:
        folder |= reader.finish()
    bands = checks.bands or learnt_bands(pictures, checks.tolerance)
    judge(pictures, checks, bands)
    report = CheckReport(str(out), tuple(pictures), bands, sources.warnings(), folder)
    tables = {part: checks_table(its) for part, its in by_part.items()}
    write_checks(backend, tables, {**report.as_json(), "checks": checks.model_dump(mode="json")})
    refresh_card(backend, read_commit_log(backend).committed)
    return report


def checks_table(pictures: Sequence[Checked]) -> pa.Table:
    """What was found of pictures, as `checks/` has it: `COLUMNS`, then `rejected_by`."""
    schema = pa.schema([*((name, _TYPES[kind]) for name, kind in COLUMNS.items()), (REJECTED_BY, _TEXTS)])
    rows = [{**columns_of(one), REJECTED_BY: one.rejected_by} for one in pictures]
    return pa.Table.from_pylist(rows, schema=schema)


_TEXTS = pa.list_(pa.string())
_TYPES = {"string": pa.string(), "int64": pa.int64(), "int32": pa.int32(), "double": pa.float64(), "bool": pa.bool_()}
_READ = ("id", "image", "manifest_row", "variant", "sha256", "label", "creativity", "width", "height", "sources")


def _rows(backend: StorageBackend, part: str) -> Iterator[dict[str, Any]]:
    with opened_part(backend, part) as table:
        there = [name for name in _READ if name in table.schema_arrow.names]
        for batch in table.iter_batches(batch_size=ROWS, columns=there):
            yield from batch.to_pylist()


def _measured(
    row: Mapping[str, Any], sources: _Sources, copies: NearCopies | None, readers: Sequence[Reader]
) -> Checked:
    one = Checked(row["id"], row["manifest_row"], row["variant"], row["sha256"])
    one.label = None if row.get("label") is None else str(row["label"])
    one.creativity = row["creativity"] if row["sources"] else None
    pixels = _decoded(row["image"]["bytes"])
    if pixels is None:
        return one
    one.decodes = True
    one.size_matches = pixels.shape[:2] == (row["height"], row["width"])
    told = measure(pixels)
    one.brightness, one.contrast, one.sharpness = told.brightness, told.contrast, told.sharpness
    one.fingerprint = fingerprint_of(pixels)
    if copies is not None:
        one.near_held_out = next(copies.of(one.fingerprint), None) is not None
    if row["sources"] and (source := sources.of(row)) is not None:
        one.source_sharpness = source.sharpness
        one.source_distance = distance(small(pixels), source.small)
    for reader in readers:
        reader.see(one, pixels)
    return one


def _has_moved(row: Mapping[str, Any], classes: Classes) -> bool | None:
    """Whether a source of a picture is in none of the splits and classes that its label says; None: not known."""
    known = [classes[one["sha256"]] for one in row["sources"] or () if one["sha256"] in classes]
    if row.get("label") is None or not known:
        return None
    return not all(str(row["label"]) in labels for labels in known)


def _decoded(data: bytes) -> np.ndarray | None:
    """The pixels of a picture, or None if its file cannot be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


@dataclass(frozen=True, slots=True)
class _FittedSource:
    """A source, or a mixture of several, at the size of a picture."""

    small: np.ndarray
    sharpness: float


class _Sources:
    """The sources of a folder's pictures, as its manifest has them."""

    def __init__(self, plan: Mapping[str, Any]):
        """plan: as the folder has noted it."""
        self._missing: dict[str, str] = {}
        self._manifest: Manifest | None = None
        self._loader: SourceLoader | None = None
        self._known: dict[tuple[Any, ...], _FittedSource] = {}
        self._sources: dict[str, tuple[Source, ...]] | None = None
        self._unread: str | None = None
        self._plan = plan

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loader is not None:
            self._loader.close()

    def of(self, row: Mapping[str, Any]) -> _FittedSource | None:
        """The source of a picture, if it can be had and is the one that the picture was made from."""
        try:
            references = self._references(row)
            made_from = tuple((one["sha256"], one["weight"]) for one in row["sources"])
            key = (made_from, row["width"], row["height"])
            if key not in self._known:
                if len(self._known) > 256:
                    self._known.clear()
                self._known[key] = self._fitted(references, row)
            return self._known[key]
        except (RowError, LookupError) as error:
            self._missing[row["id"]] = str(error)
            return None

    def warnings(self) -> tuple[str, ...]:
        """What to say of sources that were not to be had, a sentence each."""
        if not self._missing:
            return ()
        name, why = next(iter(self._missing.items()))
        count = len(self._missing)
        return (f"not compared with their sources: {number_of(count, 'pictures')}, {name!r} for one: {why}",)

    def _references(self, row: Mapping[str, Any]) -> tuple[Source, ...]:
        if self._sources is None:
            self._sources = self._read()
        base = row["id"]
        if base not in self._sources and row["variant"] is not None:
            base = base.removesuffix(f"-{row['variant']}")
        if base not in self._sources:
            raise LookupError(self._unread or "the manifest does not ask for it any more")
        return self._sources[base]

    def _read(self) -> dict[str, tuple[Source, ...]]:
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
            return {}
        self._loader = SourceLoader(manifest.source_root, allow_http=settings.allow_http, fence=manifest.source_fence)
        return {row.id: row.sources for row in manifest.iter_rows() if row.sources}

    def _fitted(self, references: Sequence[Source], row: Mapping[str, Any]) -> _FittedSource:
        assert self._loader is not None
        loaded = [self._loader.load(source) for source in references]
        if [one.sha256 for one in loaded] != [one["sha256"] for one in row["sources"]]:
            raise LookupError("its source has changed since it was made")
        fitted = [fit(one.pixels, row["width"], row["height"]) for one in loaded]
        weights = [one["weight"] for one in row["sources"]]
        sharp = [measure(one).sharpness for one in fitted]
        return _FittedSource(blended([small(one) for one in fitted], weights), sum(sharp) / len(sharp))


def with_flags(checks: Checks, **given: Any) -> Checks:
    """Checks with what flags say in place of the recipe. given: None means not given."""
    said = {name: value for name, value in given.items() if value is not None}
    return checks.model_copy(update=said) if said else checks
