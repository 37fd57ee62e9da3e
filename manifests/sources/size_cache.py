"""A cache of the sizes of source images, so that a run does not look again at what an earlier one has looked at.

An entry holds while what its storage says of the file is the same: bytes and time of change of a local file, bytes
and entity tag (or time of change) in an object store, `ETag` or `Last-Modified` on the web.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SCHEMA = pa.schema(
    [("key", pa.string()), ("version", pa.string()), ("width", pa.int32()), ("height", pa.int32())],
    metadata={"wanbatch": "source sizes 2"},
)
_EARLIER = {b"wanbatch": b"source sizes 1"}
"""Of versions that did not see all ways to say how an image is turned."""


@dataclass(frozen=True, slots=True)
class SourceSize:
    """The size of a source.

    Attributes:
        width, height: pixels of the upright image.
        version: what tells this content of the source from later ones; None: nothing does.
        notes: what the user should know of it, of `notes.WORDS`, as far as its header tells; a cache keeps none.
    """

    width: int
    height: int
    version: str | None
    notes: frozenset[str] = frozenset()


class SizeCache:
    """Sizes by the sources' keys (`SourceLoader.cache_key`). It never changes; `with_sizes` gives another one."""

    def __init__(self, table: pa.Table | None = None):
        """table: of an earlier `SizeCache`; None: nothing is known."""
        self._table = _SCHEMA.empty_table() if table is None else table

    def __len__(self) -> int:
        return self._table.num_rows

    @classmethod
    def from_bytes(cls, data: bytes) -> SizeCache:
        """What `to_bytes` gave; nothing of what releases up to 0.1.0 gave, which is measured again.

        Raises ValueError if it is damaged or of a later version of wanbatch.
        """
        try:
            table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
            table.validate(full=True)
            if table.schema.metadata == _EARLIER:
                return cls()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(str(error).partition("\n")[0]) from error
        if not table.schema.equals(_SCHEMA, check_metadata=True) or any(c.null_count for c in table.columns):
            raise ValueError("its columns are other ones")
        if len(table) and min(pc.min(table["width"]).as_py(), pc.min(table["height"]).as_py()) < 1:
            raise ValueError("it holds sizes below 1")
        return cls(table)

    def to_bytes(self) -> bytes:
        """The cache as a Parquet file."""
        buffer = io.BytesIO()
        pq.write_table(self._table, buffer, compression="zstd", write_page_checksum=True)
        return buffer.getvalue()

    def find(self, keys: Sequence[str]) -> list[SourceSize | None]:
        """What is known of each key, in their order."""
        if not len(self):
            return [None] * len(keys)
        indices = pc.index_in(pa.array(keys, pa.string()), value_set=self._table["key"])
        found = self._table.select(["width", "height", "version"]).take(indices)
        columns = (column.to_pylist() for column in found.columns)
        return [
            None if version is None else SourceSize(width, height, version)
            for width, height, version in zip(*columns, strict=True)
        ]

    def with_sizes(self, sizes: Mapping[str, SourceSize]) -> SizeCache:
        """A cache that knows these, too; what it knew of the same keys is forgotten."""
        entries = [
            (key, size.version, size.width, size.height) for key, size in sizes.items() if size.version is not None
        ]
        replaced = pa.array(list(sizes), pa.string())
        kept = self._table.filter(pc.invert(pc.is_in(self._table["key"], value_set=replaced)))
        if entries:
            columns = [
                pa.array(values, field.type)
                for values, field in zip(zip(*entries, strict=True), _SCHEMA, strict=True)
            ]
            kept = pa.concat_tables([kept, pa.Table.from_arrays(columns, schema=_SCHEMA)])
        return SizeCache(kept)
