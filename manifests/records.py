"""The records: what a manifest asks (`Row`), and what a run writes (`Record`, `Timing`, `Failure`).

Each written record has an Arrow schema beside it. This file reads and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Source:
    """A reference to one source image; its bytes are read where they are needed, by `SourceLoader`.

    path: the path as the manifest has it. For an embedded image it is only a name, and may be None.
    weight: the share in the blend; the weights of a row add up to 1.
    file, row, column, item: where the bytes of an embedded image are: Parquet file (absolute path),
        its row from 0, its column, and the place in the column's list (0 if it holds no lists).
    """

    path: str | None
    weight: float = 1.0
    file: str | None = None
    row: int = -1
    column: str = ""
    item: int = 0

    @property
    def embedded(self) -> bool:
        """True if the image's bytes are inside the manifest."""
        return self.file is not None

    @property
    def name(self) -> str:
        """What messages call this source."""
        if not self.embedded:
            return str(self.path)
        return f"{self.file} row {self.row} {self.column}[{self.item}]"

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two sources that read the same bytes of the same manifest, whatever their weight."""
        return (self.file, self.row, self.column, self.item) if self.embedded else (self.path,)


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter by its registered name, and how strongly it is applied."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One thing asked for. The rows of a blend group are one `Row`. None: the manifest does not say.

    number: the manifest row from 0, of the first member for a group.
    place: where the user finds it: `shop.jsonl:7` or `shop.parquet row 7`.
    """

    id: str
    number: int
    place: str
    prompt: str | None = None
    negative_prompt: str | None = None
    sources: tuple[Source, ...] = ()
    creativity: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    sigmas: tuple[float, ...] | None = None
    style: str | None = None
    loras: tuple[Lora, ...] = ()
    num_images: int = 1
    audio: str | None = None

    def image_ids(self) -> Iterator[str]:
        """The ids of the images asked for: the row's own, or `id-0`, `id-1`, ... for several."""
        if self.num_images == 1:
            yield self.id
        else:
            yield from (f"{self.id}-{variant}" for variant in range(self.num_images))


@dataclass(frozen=True, slots=True)
class UsedSource:
    """A source of a finished image; `sha256` is of the encoded file."""

    path: str | None
    weight: float
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """One image that was made: a row of `data/`, before the passthrough columns.

    sigmas: explicit noise levels; steps is then their number, and shift and schedule play no part and are None.
    image: the picture as a file. sha256: of the pixels as they were made, before a lossy format changed them: RGB,
        row by row, uint8. suffix: of the picture's file name; not a column of its own.
    """

    id: str
    image: bytes
    prompt: str | None
    negative_prompt: str | None
    sources: tuple[UsedSource, ...]
    creativity: float
    seed: int
    variant: int
    width: int
    height: int
    steps: int
    guidance: float
    shift: float | None
    sampler: str
    schedule: str | None
    sigmas: tuple[float, ...] | None
    step_cache: str
    model: str
    revision: str | None
    sha256: str
    manifest_row: int
    suffix: str = ".png"


@dataclass(frozen=True, slots=True)
class Backends:
    """The name of the implementation that ran each stage; None: the stage did not run."""

    text: str | None = None
    encode: str | None = None
    denoise: str | None = None
    decode: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """How one image was made: a row of `timings/`. Seconds are the image's own share of its batch.

    steps_full: evaluations of the model of which every block ran; steps_cached: the others. blocks_full,
    blocks_cached: blocks that ran and that were left out, over all evaluations, with and without the prompt.
    """

    id: str
    unit: int
    attempt: int
    worker: str
    host: str
    device: str
    batch_size: int
    started: datetime
    backends: Backends = field(default_factory=Backends)
    load_seconds: float = 0.0
    text_seconds: float = 0.0
    encode_seconds: float = 0.0
    denoise_seconds: float = 0.0
    decode_seconds: float = 0.0
    image_seconds: float = 0.0
    write_seconds: float = 0.0
    steps_full: int = 0
    steps_cached: int = 0
    blocks_full: int = 0
    blocks_cached: int = 0
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that could not be made: a row of `failures/`."""

    id: str
    manifest_row: int
    stage: str
    error_class: str
    message: str
    attempts: int
    unit: int
    time: datetime


UTC_TIME = pa.timestamp("us", tz="UTC")

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

DATA_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", IMAGE_TYPE),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        (
            "sources",
            pa.list_(pa.struct([("path", pa.string()), ("weight", pa.float64()), ("sha256", pa.string())])),
        ),
        ("creativity", pa.float64()),
        ("seed", pa.int64()),
        ("variant", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("steps", pa.int32()),
        ("guidance", pa.float64()),
        ("shift", pa.float64()),
        ("sampler", pa.string()),
        ("schedule", pa.string()),
        ("sigmas", pa.list_(pa.float64())),
        ("step_cache", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("sha256", pa.string()),
        ("manifest_row", pa.int64()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})},
)

TIMING_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("unit", pa.int64()),
        ("attempt", pa.int32()),
        ("worker", pa.string()),
        ("host", pa.string()),
        ("device", pa.string()),
        ("batch_size", pa.int32()),
        ("started", UTC_TIME),
        ("backends", pa.struct([(name, pa.string()) for name in ("text", "encode", "denoise", "decode")])),
        ("load_seconds", pa.float64()),
        ("text_seconds", pa.float64()),
        ("encode_seconds", pa.float64()),
        ("denoise_seconds", pa.float64()),
        ("decode_seconds", pa.float64()),
        ("image_seconds", pa.float64()),
        ("write_seconds", pa.float64()),
        ("steps_full", pa.int32()),
        ("steps_cached", pa.int32()),
        ("blocks_full", pa.int32()),
        ("blocks_cached", pa.int32()),
        ("peak_memory_bytes", pa.int64()),
    ]
)

FAILURE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("manifest_row", pa.int64()),
        ("stage", pa.string()),
        ("error_class", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("unit", pa.int64()),
        ("time", UTC_TIME),
    ]
)


def data_schema(passthrough: pa.Schema | None = None) -> pa.Schema:
    """The schema of a data part: `DATA_SCHEMA`, then the passthrough columns.

    The Hugging Face features that a manifest declared for its own columns (class labels, ...) are kept.
    """
    if passthrough is None:
        return DATA_SCHEMA
    features = {"image": {"_type": "Image"}}
    declared = huggingface_features(passthrough)
    features |= {name: declared[name] for name in passthrough.names if name in declared}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = [passthrough.field(i).remove_metadata() for i in range(len(passthrough))]
    return pa.schema([*DATA_SCHEMA, *columns], metadata=metadata)


def huggingface_features(schema: pa.Schema) -> dict[str, dict]:
    """The features that `datasets` noted in a schema's metadata; empty if there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return dict(features)
    except (ValueError, KeyError, TypeError):
        return {}


def data_table(records: Sequence[Record], passthrough: pa.Table | None = None) -> pa.Table:
    """The table of a data part.

    passthrough: one row for each record, in the same order; no column of it may be one of `DATA_SCHEMA`.

    Raises:
        ValueError: if the two have different lengths.
    """
    table = _table(records, DATA_SCHEMA, image=lambda r: {"bytes": r.image, "path": f"{r.id}{r.suffix}"})
    if passthrough is None or passthrough.num_columns == 0:
        return table
    if passthrough.num_rows != len(records):
        raise ValueError(f"{len(records)} records but {passthrough.num_rows} passthrough rows")
    schema = data_schema(passthrough.schema)
    return pa.Table.from_arrays([*table.columns, *passthrough.columns], schema=schema)


def timing_table(timings: Sequence[Timing]) -> pa.Table:
    """The table of a timings part."""
    return _table(timings, TIMING_SCHEMA)


def failure_table(failures: Sequence[Failure]) -> pa.Table:
    """The table of a failures part. Messages are cut to 2000 characters, and to what UTF-8 can hold."""
    return _table(failures, FAILURE_SCHEMA, message=lambda f: f.message[:2000].encode(errors="replace").decode())


def _table(records: Sequence, schema: pa.Schema, **special) -> pa.Table:
    columns = []
    for column in schema:
        value = special.get(column.name)
        values = [value(r) if value else _plain(getattr(r, column.name)) for r in records]
        columns.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _plain(value):
    """Nested dataclasses as dictionaries, tuples as lists; anything else as it is."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    return value
