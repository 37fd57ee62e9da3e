"""The rows of a manifest as Arrow columns: compact in memory, a `Row` at a time on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from wanbatch.manifests.reading.row_model import ManifestRow
from wanbatch.manifests.records import Lora, Row, Source

SETTINGS = (
    "prompt",
    "negative_prompt",
    "creativity",
    "seed",
    "width",
    "height",
    "steps",
    "guidance",
    "shift",
    "sampler",
    "schedule",
    "sigmas",
    "style",
    "loras",
    "num_images",
    "audio",
)
"""The columns on which the members of a blend group must agree."""

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

ROWS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("number", pa.int64()),  # manifest row from 0, over all files
        ("file", pa.int32()),  # index into the manifest's files
        ("position", pa.int64()),  # line from 1 (JSONL) or row from 0 (Parquet), in its file
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("sources", pa.list_(SOURCE_TYPE)),
        ("creativity", pa.float64()),
        ("seed", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("steps", pa.int32()),
        ("guidance", pa.float64()),
        ("shift", pa.float64()),
        ("sampler", pa.string()),
        ("schedule", pa.string()),
        ("sigmas", pa.list_(pa.float64())),
        ("style", pa.string()),
        ("loras", pa.list_(pa.struct([("name", pa.string()), ("weight", pa.float64())]))),
        ("num_images", pa.int32()),
        ("audio", pa.string()),
    ]
)

UNMERGED_SCHEMA = ROWS_SCHEMA.append(pa.field("blend_group", pa.string())).append(
    pa.field("blend_weight", pa.float64())
)
"""Like `ROWS_SCHEMA`, while blend groups are not merged yet."""


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


def row_values(line: ManifestRow, number: int, file: int, position: int) -> Sequence[Any]:
    """A checked line as one row of `LINES_SCHEMA`."""
    name = line.blend_group or line.id or f"{number:08d}"
    return (
        name,
        number,
        file,
        position,
        line.prompt,
        line.negative_prompt,
        _sources(line, file, position),
        line.creativity,
        line.seed,
        line.width,
        line.height,
        line.steps,
        line.guidance,
        line.shift,
        line.sampler,
        line.schedule,
        line.sigmas,
        line.style,
        [(lora.name, lora.weight) for lora in line.loras] if line.loras else None,
        line.num_images,
        line.audio,
        line.blend_group,
        line.blend_weight,
    )


def _sources(line: ManifestRow, file: int, position: int) -> list[tuple] | None:
    if not line.sources:
        return None
    column = "image" if line.image else "images"
    weights = line.blend_weights or [1.0] * len(line.sources)
    total = sum(weights)
    return [
        (image.path, weight / total, None, None, None, None)
        if image.bytes is None
        else (image.path, weight / total, file, position, column, item)
        for item, (image, weight) in enumerate(zip(line.sources, weights, strict=True))
    ]


def row_of(values: Mapping[str, Any], files: Sequence[str], place: str) -> Row:
    """One row of `ROWS_SCHEMA`, as plain Python values, as a `Row`."""
    settings = {name: values[name] for name in SETTINGS if name not in ("sigmas", "loras", "num_images")}
    return Row(
        id=values["id"],
        number=values["number"],
        place=place,
        sources=tuple(source_of(source, files) for source in values["sources"] or ()),
        sigmas=None if values["sigmas"] is None else tuple(values["sigmas"]),
        loras=tuple(Lora(**lora) for lora in values["loras"] or ()),
        num_images=values["num_images"] or 1,
        **settings,
    )


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
