"""Values that come as text, from cells of CSV and names of partition folders: what they mean, told conservatively."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kinds

from wanbatch.manifests.columns import GIVEN

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Whole numbers as they are written out, so that no digit is lost: 007 and +7 are text."""
DECIMAL = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]*[1-9]|\.0)?$"
"""Numbers that are written out again as they were, but for `.0`: 1.10 may be a version, so it is text."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_DIGITS = 15
"""So many decimal digits a float keeps."""


class BadTextError(ValueError):
    """A text that cannot be the value of its column. The message says what to write instead."""


def known_value(name: str, text: str) -> Any:
    """The value of a known column from text, as the row model takes it; None for empty text.

    Text columns take it as it is, columns of numbers as a number, columns of lists as JSON. What looks like none of
    these is left as text, for the row model to refuse.

    Args:
        name: of the column, one of `columns.GIVEN`.
        text: what the cell holds.
    Raises:
        BadTextError: It should be JSON, and is not.
    """
    if text == "":
        return None
    wanted = GIVEN[name].kind.type
    if wanted is None:
        return _image(name, text)
    if kinds.is_string(wanted):
        return text
    if kinds.is_list(wanted):
        return _from_json(name, text)
    return _number(text)


def _number(text: str) -> Any:
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d{1,400}", stripped):
        return int(stripped)
    return float(stripped) if len(stripped) < 400 and _NUMBER.fullmatch(stripped) else text


def _image(name: str, text: str) -> Any:
    """A path, or JSON: a list of paths and structs, or one struct."""
    if text.startswith(("{'bytes'", "{'path'")):
        raise BadTextError(f"{name} is a struct as Python prints it: write the path alone, or use Parquet for bytes")
    if text.startswith(("['", '["', '[{"', '{"')):
        return _from_json(name, text)
    return text


def _from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        start = text if len(text) <= 40 else f"{text[:37]}..."
        like = '["a", "b"]' if name in ("keywords", "image", "images") else "[1, 0.5]"
        raise BadTextError(f"{name} is {start!r}: in a cell write a list as JSON, like {like}") from error


def inferred(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """A passthrough column of texts in the type that its values spell exactly: integers, numbers, booleans or text.

    Empty texts are null. One value that is no number, like 007 or 1.10, leaves the column text.

    Args:
        texts: of type string.
    """
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    values = texts.drop_null()
    if not len(values):
        return pa.chunked_array([pa.nulls(len(texts))])
    if _all_match(values, INTEGER):
        return texts.cast(pa.int64())
    if _all_match(values, DECIMAL) and pc.max(pc.utf8_length(values)).as_py() <= _DIGITS + 2:
        return texts.cast(pa.float64())
    for yes, no in (("True", "False"), ("true", "false")):
        if pc.all(pc.is_in(values, pa.array([yes, no]))).as_py():
            return pc.equal(texts, yes)
    return texts


def _all_match(values: pa.ChunkedArray, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py()
