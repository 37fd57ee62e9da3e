"""JSONL manifests: one JSON object a line. Types of passthrough columns are inferred."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from typing import Any

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.reading.inferred_columns import InferredColumns
from wanbatch.manifests.reading.json_mistakes import conversion, looks_whole, mistake
from wanbatch.manifests.reading.kind import ManifestFiles, ManifestPath
from wanbatch.manifests.reading.nearest import shorten
from wanbatch.manifests.reading.partitions import typed_partitions
from wanbatch.manifests.reading.row_model import KNOWN
from wanbatch.manifests.reading.text_lines import (
    MAX_LINE,
    compression_of,
    not_utf8,
    numbered_lines,
    whole_text,
    with_compressions,
)
from wanbatch.manifests.reading.text_values import BadTextError, known_value
from wanbatch.manifests.reading.validation import Positions, RowChecker

SUFFIXES = with_compressions((".jsonl", ".ndjson", ".json"))
IN_FOLDERS = with_compressions((".jsonl", ".ndjson"))
MAX_WHOLE = 64 << 20
"""How much is read of a file that seems to be one JSON value, to say which form it has."""

_UNPACK = {"gzip": "gzip -dc", "zstd": "zstd -dc"}


class _BadLine(Exception):
    """A line that is not one JSON object."""


class JsonLines:
    """Files with one JSON object a line, or a folder of such files, read in the order of their names."""

    takes = "JSONL (.jsonl, .ndjson, .json)"
    positions: Positions = "line"

    def find(self, path: ManifestPath) -> ManifestFiles | None:
        """See `ManifestKind.find`."""
        return path.alone_or_all(SUFFIXES, IN_FOLDERS)

    def read(self, found: ManifestFiles, checker: RowChecker) -> tuple[pa.Table, str]:
        """See `ManifestKind.read`. The digest is the SHA-256 of all that the files hold, unpacked."""
        digest = hashlib.sha256()
        others = InferredColumns(checker.problems)
        partitions = typed_partitions(found.constants)
        for index, (path, shown) in enumerate(zip(found.files, found.shown, strict=True)):
            begun = False
            constants = found.constants_of(index)
            fixed = _fixed(constants, partitions[index] if partitions else {}, checker, index)
            unread = constants.keys() - fixed.keys()
            for number, raw in numbered_lines(path, shown):
                digest.update(raw)
                if not begun and raw.strip():
                    begun = True
                    _check_form(path, shown, raw)
                _read_line(shown, raw, index, number, checker, others, fixed, unread)
        return others.table(), digest.hexdigest()


def _fixed(
    texts: Mapping[str, str | None], typed: Mapping[str, Any], checker: RowChecker, index: int
) -> dict[str, Any]:
    """The columns that all rows of a file have from its folders' names.

    Args:
        texts: the columns with their values as text.
        typed: the same as they pass through.
        checker: takes problems.
        index: of the file.
    """
    fixed = {}
    for name, text in texts.items():
        meant = checker.name_of(name)
        try:
            known = meant in KNOWN and text is not None
            fixed[name] = known_value(meant, text) if known else typed[name]  # type: ignore[arg-type]
        except BadTextError as error:
            checker.problems.add(index, -1, str(error))
    return fixed


def _check_form(path: str, shown: str, first: bytes) -> None:
    """Raises UserError, with the remedy, if a file is one JSON value and not one object a line.

    Args:
        path: of the file.
        shown: the same as the user would write it.
        first: its first line that is not blank.
    """
    try:
        values = _parse(shown, first)
        suspicious = looks_whole(values)
    except _BadLine:
        suspicious = first.strip()[:1] in (b"[", b"{")
    if not suspicious:
        return
    text = whole_text(path, MAX_WHOLE)
    packed = compression_of(path)
    said = None if text is None else conversion(shown, text.strip(), _UNPACK[packed] if packed else "")
    if said is None and first.strip() in (b"[", b"{"):
        said = "is not one object a line: write each row as {...} on a line of its own"
    if said is not None:
        raise UserError(f"{shown}: {said}")


def _read_line(
    shown: str,
    raw: bytes,
    file: int,
    number: int,
    checker: RowChecker,
    others: InferredColumns,
    fixed: Mapping[str, Any],
    unread: Set[str],
) -> None:
    """Check one line. fixed: values of columns that it may lack. unread: such columns whose values are wrong."""
    try:
        values = _parse(shown, raw)
    except _BadLine as bad:
        checker.problems.add(file, number, str(bad))
        checker.skip()
        return
    if values is None:
        return
    row = checker.renamed({**fixed, **values} if fixed else values)
    known = {name: value for name, value in row.items() if name in KNOWN and value is not None}
    unknown = {name: value for name, value in row.items() if name not in KNOWN}
    checker.add(known, file, number, {checker.name_of(name) for name in unread} - row.keys() if unread else unread)
    others.add(unknown, file, number)  # also of a row that is wrong, to find what is wrong with these


def _parse(shown: str, raw: bytes) -> dict[str, Any] | None:
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
        raise _BadLine(not_utf8(shown, text, error.start)) from error
    except (ValueError, RecursionError) as error:
        raise _BadLine(_not_json(error, raw)) from error
    if not isinstance(values, dict):
        raise _BadLine(f"is {_json_type(values)}, not an object: write one {{...}} a line")
    return values


def _not_json(error: Exception, raw: bytes) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if "int_max_str_digits" in str(error):  # which is Python's setting, and none of a manifest
        return "has a whole number of thousands of digits: write it as text, or leave it out"
    if not isinstance(error, json.JSONDecodeError):
        return f"is not valid: {error}"
    if known := mistake(raw.decode().strip(), error):
        return known
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
