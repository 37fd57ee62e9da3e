"""`wanbatch check`: measuring the pictures of an output folder, and writing what was found beside them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from wanbatch.errors import UserError
from wanbatch.jobs.augment.checked_sources import CheckedSources
from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.gathered import UNKNOWN, Gathered, Together
from wanbatch.jobs.augment.measures import distance, measure, small
from wanbatch.jobs.augment.near_copies import Fingerprint, NearCopies, fingerprint_of
from wanbatch.jobs.augment.readers import Reader, ReaderFindings, ShownPictures
from wanbatch.jobs.augment.verdicts import COLUMNS, Checked, ClassVerdict, Tally, columns_of, judge
from wanbatch.manifests.dataset.card import refresh_card
from wanbatch.manifests.dataset.checks import REJECTED_BY, write_checks
from wanbatch.manifests.dataset.commit_log import read_commit_log
from wanbatch.manifests.dataset.committed_parts import opened_part
from wanbatch.manifests.dataset.held_folder import held_folder
from wanbatch.manifests.dataset.status import committed_rows, status
from wanbatch.manifests.storage.atomic_files import named
from wanbatch.manifests.storage.backend import StorageBackend, open_backend

ROWS = 64
"""Pictures that are read at a time."""

Classes = Mapping[str, Collection[str]]
"""By the digests of pictures: their classes in the splits that are augmented; none, if they are held out."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `wanbatch check` found.

    Attributes:
        out: the output folder.
        pictures: how many there are.
        rejected: how many of them are rejected.
        rejected_by: by the name of a check, how many it rejects, the most first.
        classes: the classes by name, with their pictures.
        bands: the distances that were allowed, given or learnt.
        warnings: what could not be checked, a sentence each.
        folder: numbers about the folder as a whole, such as `kid`.
    """

    out: str
    pictures: int
    rejected: int
    rejected_by: Mapping[str, int]
    classes: tuple[ClassVerdict, ...]
    bands: tuple[Band, ...]
    warnings: tuple[str, ...]
    folder: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What a script may want to read, and what is noted in the folder."""
        return {
            "pictures": self.pictures,
            "rejected": self.rejected,
            "rejected_by": dict(self.rejected_by),
            "classes": [asdict(one) for one in self.classes],
            "bands": [band.model_dump(mode="json") for band in self.bands],
            "folder": dict(self.folder),
            "warnings": list(self.warnings),
        }


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
        MachineryError: It cannot be read or written, or the temporary folder has no room.
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
    copies = NearCopies(held_out) if held_out else None
    shown = ShownPictures(readers)
    with ExitStack() as stack:
        gathered = stack.enter_context(Gathered())
        for reader in readers:
            stack.callback(reader.close)
            reader.begin(lambda: _labels(backend, parts))
        draft = stack.enter_context(TemporaryFile(prefix="wanbatch-"))
        with CheckedSources(status(out)["plan"]) as sources, pa.ipc.new_stream(draft, MEASURED) as writer:
            for part in parts:
                for row in _rows(backend, part):
                    one, pixels = _measured(row, sources, copies)
                    one.source_moved = _has_moved(row, classes)
                    gathered.add(one)
                    shown.add(one, pixels)
                shown.end_part()
                _write(writer, shown)
            shown.end()
            _write(writer, shown)
        findings = [reader.finish(gathered.order_of_shown()) for reader in readers]
        together = gathered.together(checks)
        verdicts = _Verdicts(checks, together, findings)
        draft.seek(0)
        with pa.ipc.open_stream(draft) as measured:
            tables = ((part, verdicts.of(batch)) for part, batch in zip(parts, measured, strict=True))

            def report() -> CheckReport:
                return verdicts.report(str(out), sources.warnings())

            write_checks(backend, tables, lambda: {**report().as_json(), "checks": checks.model_dump(mode="json")})
    refresh_card(backend, read_commit_log(backend).committed)
    return report()


def _write(writer: pa.ipc.RecordBatchStreamWriter, shown: ShownPictures) -> None:
    """Write the parts whose pictures were all looked at, a batch each."""
    for part in shown.parts():
        with named(gettempdir()):
            writer.write_batch(pa.RecordBatch.from_pylist([columns_of(one) for one in part], MEASURED))


def _labels(backend: StorageBackend, parts: Sequence[str]) -> set[str]:
    """The classes of all pictures, also of those whose file cannot be read."""
    found: set[str] = set()
    for part in parts:
        with opened_part(backend, part) as table:
            if LABEL in table.schema_arrow.names:
                for batch in table.iter_batches(columns=[LABEL]):
                    found.update(str(label) for label in batch[LABEL].to_pylist() if label is not None)
    return found


class _Verdicts:
    """Judges measured pictures, a part of the folder after the other."""

    def __init__(self, checks: Checks, together: Together, findings: Sequence[ReaderFindings]):
        self._checks, self._together, self._findings = checks, together, findings
        self._tally = Tally()
        self._seen = 0

    def of(self, measured: pa.RecordBatch) -> pa.Table:
        """What `checks/` has of the next pictures: `COLUMNS`, then `rejected_by`. measured: `MEASURED`."""
        rows = []
        for values in measured.to_pylist():
            one = Checked(**values)
            self._judge(one)
            rows.append({**columns_of(one), REJECTED_BY: one.rejected_by})
        return pa.Table.from_pylist(rows, schema=MEASURED.append(pa.field(REJECTED_BY, _TEXTS)))

    def _judge(self, one: Checked) -> None:
        place, together = self._tally.pictures, self._together
        one.exact_duplicate = bool(together.exact_duplicate[place])
        near = int(together.near_duplicate[place])
        one.near_duplicate = None if near == UNKNOWN else bool(near)
        if one.decodes:  # the others are shown to no reader
            for found in self._findings:
                for name, column in found.columns.items():
                    setattr(one, name, column[self._seen].as_py())
            self._seen += 1
        judge(one, self._checks, together.bands, together.usual_sharpness)
        self._tally.add(one)

    def report(self, out: str, warnings: tuple[str, ...]) -> CheckReport:
        """What was found of all that were judged."""
        folder = {name: value for found in self._findings for name, value in found.folder.items()}
        tally = self._tally
        counts = tally.pictures, tally.rejected, tally.by_reason(), tally.by_class()
        return CheckReport(out, *counts, self._together.bands, warnings, folder)


_TEXTS = pa.list_(pa.string())
_TYPES = {"string": pa.string(), "int64": pa.int64(), "int32": pa.int32(), "double": pa.float64(), "bool": pa.bool_()}
MEASURED = pa.schema([(name, _TYPES[kind]) for name, kind in COLUMNS.items()])
"""Of pictures that are measured and not judged yet, for which what is still unknown is null."""

LABEL = "label"
_READ = ("id", "image", "manifest_row", "variant", "sha256", LABEL, "creativity", "width", "height", "sources")


def _rows(backend: StorageBackend, part: str) -> Iterator[dict[str, Any]]:
    with opened_part(backend, part) as table:
        there = [name for name in _READ if name in table.schema_arrow.names]
        for batch in table.iter_batches(batch_size=ROWS, columns=there):
            yield from batch.to_pylist()


def _measured(
    row: Mapping[str, Any], sources: CheckedSources, copies: NearCopies | None
) -> tuple[Checked, np.ndarray | None]:
    """A picture and its pixels, uint8 [rows, columns, 3]; None if its file cannot be read."""
    one = Checked(row["id"], row["manifest_row"], row["variant"], row["sha256"])
    one.label = None if row.get("label") is None else str(row["label"])
    one.creativity = row["creativity"] if row["sources"] else None
    pixels = _decoded(row["image"]["bytes"])
    if pixels is None:
        return one, None
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
    return one, pixels


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


def with_flags(checks: Checks, **given: Any) -> Checks:
    """Checks with what flags say in place of the recipe. given: None means not given."""
    said = {name: value for name, value in given.items() if value is not None}
    return checks.model_copy(update=said) if said else checks
