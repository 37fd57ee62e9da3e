"""Passthrough columns of rows that come one by one, as plain values: a column has one type in the whole manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from wanbatch.manifests.reading.row_model import shorten
from wanbatch.manifests.reading.unified import common_type
from wanbatch.manifests.reading.validation import RESERVED, Problems, bad_type, reserved_name
from wanbatch.manifests.storage.arrow_casts import cast

MAX_COLUMNS = 1000

_NOT_STORABLE = (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError)


Position = tuple[int, int]
"""A file's index in the manifest, and a position in it."""


class InferredColumns:
    """Passthrough columns of JSON rows; a column has one type in the whole manifest.

    null goes with any type, integers with floats, and objects may lack keys of one another.
    """

    def __init__(self, problems: Problems, chunk: int = 8192):
        self._problems, self._chunk = problems, chunk
        self._rows: list[dict[str, Any]] = []
        self._positions: list[Position] = []
        self._sizes: list[int] = []
        self._types: dict[str, pa.DataType] = {}
        self._first: dict[str, Position] = {}  # column -> where it first appears
        self._chunks: list[dict[str, pa.Array]] = []
        self._refused: set[str] = set()

    def add(self, values: dict[str, Any], file: int, position: int) -> None:
        """Add a row.

        Args:
            values: the columns of one row that wanbatch does not know.
            file, position: where it is.
        """
        self._rows.append(values)
        self._positions.append((file, position))
        for name in values:
            if name not in self._first:
                self._appear(name, (file, position))
        if len(self._rows) >= self._chunk:
            self._flush()

    def table(self) -> pa.Table:
        """All rows added; only useful if no problem was reported."""
        self._flush()
        names = [name for name in self._types if name not in self._refused]
        columns = [self._column(name) for name in names]
        if not columns:
            return pa.table({"": pa.nulls(sum(self._sizes))}).select([])
        return pa.Table.from_arrays(columns, names=names)

    def _appear(self, name: str, at: Position) -> None:
        self._first[name] = at
        self._types[name] = pa.null()
        if name in RESERVED:
            self._refuse(name, at, reserved_name(name))
        elif not _is_unicode(name):
            self._refuse(name, at, f"column {shorten(name)} has a name that is not Unicode text: rename it")
        elif len(self._first) > MAX_COLUMNS:
            self._refuse(name, at, f"column {shorten(name)} is one more than the {MAX_COLUMNS} allowed")

    def _refuse(self, name: str, at: Position, message: str) -> None:
        self._refused.add(name)
        self._problems.add(*at, message)

    def _flush(self) -> None:
        if not self._rows:
            return
        present = dict.fromkeys(name for row in self._rows for name in row)
        self._chunks.append({})
        for name in present:
            if name not in self._refused:
                self._infer(name, [row.get(name) for row in self._rows])
        self._sizes.append(len(self._rows))
        self._rows, self._positions = [], []

    def _infer(self, name: str, values: Sequence[Any]) -> None:
        try:
            array = pa.array(values)
            self._types[name] = common_type(self._types[name], array.type)
            self._chunks[-1][name] = array
        except _NOT_STORABLE:
            self._refuse(name, *self._first_disagreement(name, values))

    def _first_disagreement(self, name: str, values: Sequence[Any]) -> tuple[Position, str]:
        """(where, message) of the first value that does not go with those before it."""
        so_far = self._types[name]
        for at, value in zip(self._positions, values, strict=True):
            try:
                kind = pa.array([value]).type
            except _NOT_STORABLE:
                return at, f"column {name!r} cannot store {shorten(value)}: {_remedy(value)}"
            try:
                so_far = common_type(so_far, kind)
            except _NOT_STORABLE:
                return at, (
                    f"column {name!r} is {shorten(value)} here but {so_far} in the lines before "
                    f"(from {self._since(name, at)}): use one type in a column"
                )
        return self._positions[0], f"column {name!r} has values that no one type holds exactly: make it text"

    def _since(self, name: str, at: Position) -> str:
        """Where a column first appears, as seen from another place."""
        file, position = self._first[name]
        if file != at[0]:
            return self._problems.location(file, position)
        return f"{self._problems.positions} {position}"

    def _column(self, name: str) -> pa.ChunkedArray:
        kind = self._types[name]
        if why := bad_type(kind):
            self._problems.add(*self._first[name], f"column {name!r} {why}: simplify it or make it text")
            return pa.chunked_array([pa.nulls(sum(self._sizes))])
        try:
            arrays = [
                cast(chunk[name], kind) if name in chunk else pa.nulls(size, kind)
                for chunk, size in zip(self._chunks, self._sizes, strict=True)
            ]
        except pa.ArrowInvalid as error:
            message = f"column {name!r} has values that no one type holds exactly ({error}): make it text"
            self._problems.add(*self._first[name], message)
            return pa.chunked_array([pa.nulls(sum(self._sizes))])
        return pa.chunked_array(arrays, type=kind)


def _is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can spell and nothing can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remedy(value: Any) -> str:
    if isinstance(value, str):  # Arrow stores any text but one with half of a pair of surrogates
        return "it has half a character (a surrogate without its other half): remove it"
    return "simplify it or make it text"
