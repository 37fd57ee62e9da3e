"""JSONL manifests: one JSON object a line. Types of passthrough columns are inferred."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.reading.inferred_columns import InferredColumns
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.row_model import KNOWN, shorten
from wanbatch.manifests.reading.validation import Positions, RowChecker
from wanbatch.manifests.storage.urls import open_file

MAX_LINE = 8 << 20

SUFFIXES = (".jsonl", ".ndjson", ".json")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _BadLine(Exception):
    """A line that is not one JSON object."""


class JsonLines:
    """Files with one JSON object a line."""

    takes = f"a file that ends in {', '.join(SUFFIXES)} with one JSON object a line"
    positions: Positions = "line"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        return path.alone() if path.ends_in(SUFFIXES) else None

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`. The digest is the SHA-256 of all that the files hold."""
        digest = hashlib.sha256()
        others = InferredColumns(checker.problems)
        for index, path in enumerate(found.files):
            with open_file(path) as file:
                for number, raw in _numbered_lines(file, path):
                    digest.update(raw)
                    _read_line(raw, index, number, checker, others)
        return others.table(), digest.hexdigest()


def _read_line(raw: bytes, file: int, number: int, checker: RowChecker, others: InferredColumns) -> None:
    try:
        values = _parse(raw)
    except _BadLine as bad:
        checker.problems.add(file, number, str(bad))
        checker.skip()
        return
    if values is None:
        return
    row = checker.renamed(values)
    known = {name: value for name, value in row.items() if name in KNOWN and value is not None}
    if checker.add(known, file, number):
        others.add({name: value for name, value in row.items() if name not in KNOWN}, file, number)


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
