"""JSONL manifests: one JSON object a line. Types of passthrough columns are inferred."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.reading.row_model import KNOWN, shorten
from wanbatch.manifests.reading.validation import RESERVED, Problems, RowChecker, bad_type, reserved_name
from wanbatch.manifests.storage.urls import open_file

MAX_LINE = 8 << 20
MAX_COLUMNS = 1000

_NOT_STORABLE = (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _BadLine(Exception):
    """A line that is not one JSON object."""


def read_jsonl(path: str, checker: RowChecker) -> tuple[pa.Table, str]:
    """Check every line of a file.

    Returns:
        The passthrough columns of the good rows, and the SHA-256 of the file (hex).
    Raises:
        UserError: if the file is not UTF-8 text at all. OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    others = InferredColumns(checker.problems)
    with open_file(path) as file:
        for number, raw in _numbered_lines(file, path):
            digest.update(raw)
            try:
                values = _parse(raw)
            except _BadLine as bad:
                checker.problems.add(0, number, str(bad))
                checker.skip()
                continue
            if values is None:
                continue
            known = {name: value for name, value in values.items() if name in KNOWN and value is not None}
            if checker.add(known, 0, number):
                others.add({name: value for name, value in values.items() if name not in KNOWN}, number)
    return others.table(), digest.hexdigest()


def _numbered_lines(file: BinaryIO, path: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line). A line beyond the cap comes as its first MAX_LINE + 1 bytes."""
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
            if raw.startswith(_UTF16):
                raise UserError(f"{path}: is UTF-16 text: save it as UTF-8")
            raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw.strip() in (b"{", b"[") or (b"\r" in raw.strip() and b"\n" not in raw):
                raise UserError(f"{path}: is not one object a line: write each row as {{...}} on a line of its own")
        whole = raw.endswith(b"\n") or len(raw) <= MAX_LINE
        yield number, raw
        while not whole:
            rest = file.readline(MAX_LINE)
            whole = not rest or rest.endswith(b"\n")


def _parse(raw: bytes) -> dict[str, Any] | None:
    """The object of one line, None if it is blank. Raises _BadLine."""
    if len(raw) > MAX_LINE:
        raise _BadLine(f"is longer than {MAX_LINE >> 20} MiB: keep images in files and give their paths")
    text = raw.strip()
    if not text:
        return None
    if b"\0" in text:
        raise _BadLine("holds NUL bytes: the file is damaged or was not written to its end")
    try:
        values = _decoder.decode(text.decode())
    except UnicodeDecodeError as error:
        raise _BadLine(f"is not UTF-8 text (byte {error.start + 1}): save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _BadLine(_not_json(error, raw)) from error
    if not isinstance(values, dict):
        raise _BadLine(f"is {_json_type(values)}, not an object: write one {{...}} a line")
    return values


def _not_json(error: Exception, raw: bytes) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return f"is not valid: {error}"
    cut = "; the file's last line seems to be cut off" if not raw.endswith(b"\n") else ""
    return f"is not JSON ({error.msg} at character {error.pos + 1}){cut}: write one object a line"


def _json_type(value: object) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shorten(twice)} is there twice; keep one")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number; use null or a finite number")


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


class InferredColumns:
    """Passthrough columns of JSON rows; a column has one type in the whole file.

    null goes with any type, integers with floats, and objects may lack keys of one another.
    """

    def __init__(self, problems: Problems, chunk: int = 8192):
        self._problems, self._chunk = problems, chunk
        self._rows: list[dict[str, Any]] = []
        self._lines: list[int] = []
        self._sizes: list[int] = []
        self._types: dict[str, pa.DataType] = {}
        self._first: dict[str, int] = {}  # column -> line it first appears on
        self._chunks: list[dict[str, pa.Array]] = []
        self._refused: set[str] = set()

    def add(self, values: dict[str, Any], line: int) -> None:
        """values: the columns of one row that wanbatch does not know."""
        self._rows.append(values)
        self._lines.append(line)
        for name in values:
            if name not in self._first:
                self._appear(name, line)
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

    def _appear(self, name: str, line: int) -> None:
        self._first[name] = line
        self._types[name] = pa.null()
        if name in RESERVED:
            self._refuse(name, line, reserved_name(name))
        elif not _is_unicode(name):
            self._refuse(name, line, f"column {shorten(name)} has a name that is not Unicode text: rename it")
        elif len(self._first) > MAX_COLUMNS:
            self._refuse(name, line, f"column {shorten(name)} is one more than the {MAX_COLUMNS} allowed")

    def _refuse(self, name: str, line: int, message: str) -> None:
        self._refused.add(name)
        self._problems.add(0, line, message)

    def _flush(self) -> None:
        if not self._rows:
            return
        present = dict.fromkeys(name for row in self._rows for name in row)
        self._chunks.append({})
        for name in present:
            if name not in self._refused:
                self._infer(name, [row.get(name) for row in self._rows])
        self._sizes.append(len(self._rows))
        self._rows, self._lines = [], []

    def _infer(self, name: str, values: Sequence[Any]) -> None:
        try:
            array = pa.array(values)
            self._types[name] = _common(self._types[name], array.type)
            self._chunks[-1][name] = array
        except _NOT_STORABLE:
            self._refuse(name, *self._first_disagreement(name, values))

    def _first_disagreement(self, name: str, values: Sequence[Any]) -> tuple[int, str]:
        """(line, message) of the first value that does not go with those before it."""
        so_far = self._types[name]
        for line, value in zip(self._lines, values, strict=True):
            try:
                kind = pa.array([value]).type
            except _NOT_STORABLE:
                return line, f"column {name!r} cannot store {shorten(value)}: simplify it or make it text"
            try:
                so_far = _common(so_far, kind)
            except _NOT_STORABLE:
                return line, (
                    f"column {name!r} is {shorten(value)} here but {so_far} in the lines before "
                    f"(from line {self._first[name]}): use one type in a column"
                )
        return self._lines[0], f"column {name!r} has values that no one type holds exactly: make it text"

    def _column(self, name: str) -> pa.ChunkedArray:
        kind = self._types[name]
        if why := bad_type(kind):
            self._problems.add(0, self._first[name], f"column {name!r} {why}: simplify it or make it text")
            return pa.chunked_array([pa.nulls(sum(self._sizes))])
        try:
            arrays = [
                chunk[name].cast(kind) if name in chunk else pa.nulls(size, kind)
                for chunk, size in zip(self._chunks, self._sizes, strict=True)
            ]
        except pa.ArrowInvalid as error:
            message = f"column {name!r} has values that no one type holds exactly ({error}): make it text"
            self._problems.add(0, self._first[name], message)
            return pa.chunked_array([pa.nulls(sum(self._sizes))])
        return pa.chunked_array(arrays, type=kind)


def _is_unicode(text: str) -> bool:
    """False for halves of surrogate pairs, which JSON can spell and nothing can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both without loss. Raises ArrowException if there is none."""
    if one == other:
        return one
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
