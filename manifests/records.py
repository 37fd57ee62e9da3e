"""The records: what a manifest asks (`Row`), and what a run writes (`Record`, `Timing`, `Failure`).

What manifests and data parts have in common comes from the table in `column_table.py`; the schemas of timings and
failures come from their dataclasses here. This file reads and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa

from wanbatch.manifests.columns import FEATURES, LATER, SETTINGS, WRITTEN

Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]


@dataclass(frozen=True, slots=True)
class Source:
    """A reference to one source image or sound; its bytes are read where they are needed, by `SourceLoader`.

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


_Settings: Any = make_dataclass(
    "_Settings", [(name, Any, field(default=None)) for name in SETTINGS], frozen=True, slots=True, kw_only=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(_Settings):
    """One thing asked for, with an attribute for each of `columns.SETTINGS`; None: the manifest does not say.

    The rows of a blend group are one `Row`.

    Attributes:
        number: the manifest row from 0, of the first member for a group.
        location: where the user finds it: `shop.jsonl:7` or `shop.parquet row 7`.
        audio: its sound.
    """

    id: str
    number: int
    location: str
    sources: tuple[Source, ...] = ()
    audio: Source | None = None

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


_Written: Any = make_dataclass(
    "_Written",
    [(name, Any, field(default=None)) if name in LATER else (name, Any) for name in WRITTEN],
    frozen=True,
    slots=True,
    kw_only=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(_Written):
    """One image that was made, with an attribute for each of `columns.WRITTEN`: a row of `data/`.

    Attributes:
        image: the picture as a file.
        suffix: of the picture's file name; not a column of its own.
    """

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
    slot_steps: the image's share of the slots of its evaluations, those without an image included. So evaluations by
    slot_steps, each added up over images, is the share of the slots that was in use; null in older parts.
    """

    id: str
    unit: Int64
    attempt: Int32
    worker: str
    host: str
    device: str
    batch_size: Int32
    started: datetime
    backends: Backends = field(default_factory=Backends)
    load_seconds: float = 0.0
    text_seconds: float = 0.0
    encode_seconds: float = 0.0
    denoise_seconds: float = 0.0
    decode_seconds: float = 0.0
    image_seconds: float = 0.0
    write_seconds: float = 0.0
    steps_full: Int32 = 0
    steps_cached: Int32 = 0
    blocks_full: Int32 = 0
    blocks_cached: Int32 = 0
    peak_memory_bytes: Int64 | None = None
    slot_steps: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that could not be made: a row of `failures/`."""

    id: str
    manifest_row: Int64
    stage: str
    error_class: str
    message: str
    attempts: Int32
    unit: Int64
    time: datetime


_ARROW_TYPES = {str: pa.string(), float: pa.float64(), datetime: pa.timestamp("us", tz="UTC")}


def _schema_of(record: type) -> pa.Schema:
    """The Arrow schema of a dataclass: each field by its annotation, which may name the width of an integer."""
    hints = get_type_hints(record, include_extras=True)
    return pa.schema([(each.name, _arrow_type(hints[each.name])) for each in fields(record)])


def _arrow_type(hint: Any) -> pa.DataType:
    if is_dataclass(hint):
        return pa.struct(list(_schema_of(cast(type, hint))))
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
        return _arrow_type(hint)
    return _ARROW_TYPES[hint]


TIMING_SCHEMA = _schema_of(Timing)
FAILURE_SCHEMA = _schema_of(Failure)


def written_schema(later: Collection[str] = ()) -> pa.Schema:
    """The schema of a data part without passthrough columns.

    later: which columns of `columns.LATER` it has.
    """
    first = [(name, kind) for name, kind in WRITTEN.items() if name not in LATER]
    added = [(name, WRITTEN[name]) for name in LATER if name in later]
    names = [name for name, _ in first + added]
    return pa.schema(first + added, metadata=feature_metadata({n: FEATURES[n] for n in names if n in FEATURES}))


def feature_metadata(features: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a schema by which `datasets` knows the features of its columns."""
    return {"huggingface": json.dumps({"info": {"features": features}})}


DATA_SCHEMA = written_schema()
"""What every data part begins with."""


def data_schema(passthrough: pa.Schema | None = None, later: Collection[str] = ()) -> pa.Schema:
    """The schema of a data part: `written_schema`, then the passthrough columns.

    The Hugging Face features that a manifest declared for its own columns (class labels, ...) are kept.
    """
    written = written_schema(later)
    if passthrough is None:
        return written
    declared = huggingface_features(passthrough)
    features = huggingface_features(written) | {n: declared[n] for n in passthrough.names if n in declared}
    columns = [passthrough.field(i).remove_metadata() for i in range(len(passthrough))]
    return pa.schema([*written, *columns], metadata=feature_metadata(features))


def huggingface_features(schema: pa.Schema) -> dict[str, dict]:
    """The features that `datasets` noted in a schema's metadata; empty if there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return dict(features)
    except (ValueError, KeyError, TypeError):
        return {}


def data_table(
    records: Sequence[Record], passthrough: pa.Table | None = None, later: Collection[str] = ()
) -> pa.Table:
    """The table of a data part.

    Args:
        passthrough: one row for each record, in the same order; no column of it may be one that a run writes.
        later: which columns of `columns.LATER` the dataset has.
    Raises:
        ValueError: if the two have different lengths.
    """
    written = written_schema(later)
    table = _table(records, written, image=lambda r: {"bytes": r.image, "path": f"{r.id}{r.suffix}"})
    if passthrough is None or passthrough.num_columns == 0:
        return table
    if passthrough.num_rows != len(records):
        raise ValueError(f"{len(records)} records but {passthrough.num_rows} passthrough rows")
    schema = data_schema(passthrough.schema, later)
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
