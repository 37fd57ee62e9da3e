"""Values that come as text, from cells of CSV and names of partition folders: what they mean, told conservatively."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kinds

from wanbatch.manifests.columns import GIVEN

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Whole numbers as they are written out, so that no digit is lost: 007 and +7 are text."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WRITTEN = re.compile(r"-?(0|[1-9]\d*)((\.\d*[1-9]|\.0)([eE][+-]?\d+)?|[eE][+-]\d+)?")


_LISTS = {
    **dict.fromkeys(("keywords", "image", "images"), '["a", "b"]'),
    "creativity_boxes": '[{"box": [0.2, 0.2, 0.5, 0.5], "creativity": 0}]',
}
"""How a list of a column looks as JSON, where it is no list of numbers."""


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
    if kinds.is_boolean(wanted):
        return {"true": True, "false": False}.get(text.strip().lower(), text)
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
        like = _LISTS.get(name, "[1, 0.5]")
        raise BadTextError(f"{name} is {start!r}: in a cell write a list as JSON, like {like}") from error


def inferred(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """A passthrough column of texts in the type that its values spell exactly: integers, numbers, booleans or text.

    Empty texts are null. One value that would be written in another way as a number, like 007 or 1.10, leaves the
    column text.

    Args:
        texts: of type string.
    """
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    values = texts.drop_null()
    if not len(values):
        return pa.chunked_array([pa.nulls(len(texts))])
    if pc.all(pc.match_substring_regex(values, INTEGER)).as_py():
        return texts.cast(pa.int64())
    for yes, no in (("True", "False"), ("true", "false")):
        if pc.all(pc.is_in(values, pa.array([yes, no]))).as_py():
            return pc.equal(texts, yes)
    if all(is_exact(value) for chunk in values.chunks for value in chunk.to_pylist()):
        return texts.cast(pa.float64())
    return texts


def is_exact(text: str) -> bool:
    """Whether a text is a number as programs write it, and a float keeps all its digits: 1.10 and 12e3 are text."""
    if not _WRITTEN.fullmatch(text) or len(text) > 40:
        return False
    number = float(text)
    return math.isfinite(number) and Decimal(repr(number)) == Decimal(text)
