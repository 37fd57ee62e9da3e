"""What is wrong with JSON that is not one object a line, in words, with the way to make it so. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from wanbatch.manifests.columns import GIVEN

_SINGLE = {n for n, given in GIVEN.items() if given.kind.type is not None and not pa.types.is_list(given.kind.type)}
"""Columns that never hold a list in a row."""

_BLANKS = re.compile(r"\s*")
_ROWS = {
    "array": "json.load(open(0, encoding='utf-8-sig'))",
    "wrapped": "json.load(open(0, encoding='utf-8-sig'))[{key}]",
    "columns": "[dict(zip(d, v)) for d in [json.load(open(0, encoding='utf-8-sig'))] for v in zip(*d.values())]",
    "pandas": "[{{k: d[k][i] for k in d}} for d in [json.load(open(0, encoding='utf-8-sig'))] "
    "for i in next(iter(d.values()))]",
    "object": "[json.load(open(0, encoding='utf-8-sig'))]",
}
_WHAT = {
    "array": "is one JSON array",
    "wrapped": "is one JSON object with its rows in {key}",
    "columns": "is one JSON object of columns",
    "pandas": "is one JSON object of columns, as pandas' to_json writes by default",
    "object": "is one JSON object on several lines",
}


def conversion(shown: str, text: str, command: str = "") -> str | None:
    """What a whole file of JSON is, with the command that makes one object a line of it; None if it is no such file.

    Args:
        shown: the file, as the command reads it.
        text: all that it holds.
        command: what writes its text to a pipe, for a compressed file.
    """
    folder, slash, name = shown.rpartition("/")
    stem = f"{folder}{slash}{name.partition('.')[0]}"
    right = shlex.quote(f"{stem}.jsonl" if f"{stem}.jsonl" != shown else f"{stem}-lines.jsonl")
    source, given = (f"{command} {shlex.quote(shown)} | ", "") if command else ("", f" < {shlex.quote(shown)}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        if not _are_objects(text):
            return None
        return f"has objects on several lines each: write one object a line, {source}jq -c .{given} > {right}"
    form, key = _form(values)
    if form is None or (form == "object" and "\n" not in text.strip()):
        return None  # one line: what is wrong with it is something else
    rows, what = _ROWS[form].format(key=repr(key)), _WHAT[form].format(key=repr(key))
    code = f"import json; [print(json.dumps(r)) for r in {rows}]"
    return f'{what}: write one object a line, {source}python3 -c "{code}"{given} > {right}'


def _form(values: Any) -> tuple[str | None, str | None]:
    """How a file holds its rows, and the key that they are under, if they are."""
    if _are_rows(values):
        return "array", None
    if not isinstance(values, dict) or not values:
        return None, None
    keys = [key for key, value in values.items() if _are_rows(value) and key.isidentifier()]
    if len(keys) == 1 and not GIVEN.keys() & values.keys():
        return "wrapped", keys[0]
    columns = list(values.values())
    if all(isinstance(c, dict) and c and c.keys() == columns[0].keys() for c in columns) and _numbered(columns[0]):
        return "pandas", None
    if all(isinstance(c, list) and c and len(c) == len(columns[0]) for c in columns) and _SINGLE & values.keys():
        return "columns", None
    return "object", None


def looks_whole(values: Any) -> bool:
    """Whether an object that is alone on the first line may be all rows at once, not one of them."""
    return _form(values)[0] in ("wrapped", "pandas", "columns")


def mistake(text: str, error: json.JSONDecodeError) -> str | None:
    """What is wrong with a line that is not JSON, for the mistakes that are common; else None.

    Args:
        text: the line, without blanks around it.
        error: what the decoder said of it.
    """
    if text.startswith(("//", "#", "/*", "--")):
        return "is a comment, which JSON does not have: remove the line"
    if text.endswith(",") and _is_object(text[:-1]):
        return "ends in a comma: remove it, since each line is an object of its own"
    if text in ("[", "]", "],", "{", "}", "},"):
        return f"is {text!r} alone: write each object whole, on a line of its own"
    if text.startswith(("{'", "{ '")):
        return "has ' around texts, as Python prints them: JSON has double quotes; write rows with json.dumps(row)"
    if error.msg == "Extra data" and text[error.pos : error.pos + 1] == "{":
        return f"has another object from character {error.pos + 1} on: put it on a line of its own"
    return None


def _are_rows(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(row, dict) for row in values)


def _numbered(column: Mapping[str, Any]) -> bool:
    return all(key.isdigit() for key in column)


def _are_objects(text: str) -> bool:
    """Whether a text is objects one after the other, of which one takes more than a line."""
    decoder, at, lines = json.JSONDecoder(), 0, 0
    try:
        while at < len(text):
            value, end = decoder.raw_decode(text, at)
            lines += text.count("\n", at, end)
            at = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
            if not isinstance(value, dict):
                return False
    except (ValueError, RecursionError):
        return False
    return lines > 0


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
