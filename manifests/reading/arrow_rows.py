"""The rows of a manifest as Arrow columns: compact in memory, a `Row` at a time on demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from wanbatch.manifests.column_types import ImageValue
from wanbatch.manifests.columns import GIVEN, SETTINGS
from wanbatch.manifests.reading.row_model import ManifestRow
from wanbatch.manifests.records import Lora, Row, Source

SOURCE_TYPE = pa.struct(
    [
        ("path", pa.string()),
        ("weight", pa.float64()),
        ("file", pa.int32()),  # index into the manifest's files; null: not embedded
        ("row", pa.int64()),
        ("column", pa.string()),
        ("item", pa.int32()),
    ]
)

EMBEDDED_NAME = "(embedded)"
"""What an embedded creativity map is called that has no path."""

ROWS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("number", pa.int64()),  # manifest row from 0, over all files
        ("file", pa.int32()),  # index into the manifest's files
        ("position", pa.int64()),  # line from 1 (JSONL) or row from 0 (Parquet), in its file
        ("sources", pa.list_(SOURCE_TYPE)),
        ("audio", SOURCE_TYPE),
        ("map_source", SOURCE_TYPE),  # of a creativity map that is embedded; else its path says where it is
        *((name, GIVEN[name].kind.type) for name in SETTINGS),
    ]
)

GROUP_COLUMNS = tuple(name for name, given in GIVEN.items() if given.role == "group")

UNMERGED_SCHEMA = pa.schema([*ROWS_SCHEMA, *((name, GIVEN[name].kind.type) for name in GROUP_COLUMNS)])
"""Like `ROWS_SCHEMA`, while blend groups are not merged yet."""

UNKNOWN = "unknown"
DOUBTFUL_SCHEMA = ROWS_SCHEMA.append(pa.field(UNKNOWN, pa.list_(pa.string())))
"""Rows that cannot be taken, as far as they are right. `unknown`: columns that are wrong, could not be read or may be
given by other rows, which are null here."""


def knows(rows: pa.Table, columns: Collection[str]) -> np.ndarray:
    """Of each row of `ROWS_SCHEMA` or `DOUBTFUL_SCHEMA`, whether none of some columns is unknown; bool [rows]."""
    if UNKNOWN not in rows.column_names:
        return np.ones(len(rows), dtype=bool)
    wanted = frozenset(columns)
    return np.array([wanted.isdisjoint(unknown or ()) for unknown in rows[UNKNOWN].to_pylist()], dtype=bool)


class TableBuilder:
    """Collects rows as plain lists and turns them into a chunk of Arrow columns now and then."""

    def __init__(self, schema: pa.Schema, chunk: int = 8192):
        self.schema, self.chunk = schema, chunk
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[Sequence[Any]] = []

    def add(self, row: Sequence[Any]) -> None:
        """row: one value for each column of the schema."""
        self._rows.append(row)
        if len(self._rows) >= self.chunk:
            self._flush()

    def table(self) -> pa.Table:
        """Everything added so far."""
        self._flush()
        return pa.Table.from_batches(self._batches, schema=self.schema)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(values, f.type) for values, f in zip(columns, self.schema, strict=True)]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            self._rows = []


def row_values(
    row: ManifestRow, number: int, file: int, position: int, stored_name: Callable[[str], str] = str
) -> Sequence[Any]:
    """A checked manifest row as one row of `UNMERGED_SCHEMA`.

    stored_name: what the manifest calls a column that is read under another name.
    """
    name = row.blend_group or row.id or f"{number:08d}"
    given = (_plain(getattr(row, column)) for column in (*SETTINGS, *GROUP_COLUMNS))
    sources = _sources(row, file, position, stored_name)
    heard, shown = (of(row, file, position, stored_name) for of in (_audio, _map_source))
    return name, number, file, position, sources, heard, shown, *given


def _plain(value: Any) -> Any:
    """What Arrow can store: models as dictionaries, also inside a list; of one image its path."""
    if isinstance(value, ImageValue):
        return value.path or EMBEDDED_NAME
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return [item.model_dump() for item in value] or None
    return value


def _sources(row: ManifestRow, file: int, position: int, stored_name: Callable[[str], str]) -> list[tuple] | None:
    if not row.source_images:
        return None
    column = stored_name("image" if row.image else "images")
    weights = row.blend_weights or [1.0] * len(row.source_images)
    total = sum(weights)
    return [
        (image.path, weight / total, None, None, None, None)
        if image.bytes is None
        else (image.path, weight / total, file, position, column, item)
        for item, (image, weight) in enumerate(zip(row.source_images, weights, strict=True))
    ]


def _audio(row: ManifestRow, file: int, position: int, stored_name: Callable[[str], str]) -> tuple | None:
    if row.audio is None:
        return None
    if row.audio.bytes is None:
        return row.audio.path, 1.0, None, None, None, None
    return row.audio.path, 1.0, file, position, stored_name("audio"), 0


def _map_source(row: ManifestRow, file: int, position: int, stored_name: Callable[[str], str]) -> tuple | None:
    if row.creativity_map is None or row.creativity_map.bytes is None:
        return None
    return row.creativity_map.path, 1.0, file, position, stored_name("creativity_map"), 0


def row_of(values: Mapping[str, Any], files: Sequence[str], location: str) -> Row:
    """One row of `ROWS_SCHEMA`, as plain Python values, as a `Row`."""
    settings = {name: _frozen(values[name]) for name in SETTINGS}
    settings["num_images"] = settings["num_images"] or 1
    settings["loras"] = tuple(Lora(**lora) for lora in settings["loras"] or ())
    return Row(
        id=values["id"],
        number=values["number"],
        location=location,
        sources=tuple(source_of(source, files) for source in values["sources"] or ()),
        audio=None if values["audio"] is None else source_of(values["audio"], files),
        **settings,
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def source_of(values: Mapping[str, Any], files: Sequence[str]) -> Source:
    """One of a row's `sources`, as plain Python values, as a `Source`."""
    if values["file"] is None:
        return Source(values["path"], values["weight"])
    return Source(
        values["path"],
        values["weight"],
        files[values["file"]],
        values["row"],
        values["column"],
        values["item"],
    )
