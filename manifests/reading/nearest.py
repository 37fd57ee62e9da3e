"""What a message suggests in place of a value that is refused: the nearest one that is allowed."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args

from wanbatch.manifests.column_types import NAME
from wanbatch.manifests.columns import GIVEN
from wanbatch.manifests.reading.column_names import own_name
from wanbatch.suggestions import nearest_sides

OWN_SEED = "without a seed the row gets one of its own"


def nearest(column: str, error: Mapping[str, Any]) -> str | None:
    """A suggestion to end a message with, or None if there is no good one.

    Args:
        column: whose value it is.
        error: one of pydantic's, with its context.
    """
    value, kind, context = error["input"], error["type"], error.get("ctx") or {}
    if column == "seed" and isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return OWN_SEED
    if isinstance(value, str):
        return _of_text(column, value, kind)
    if isinstance(value, list) and kind == "string_type":
        return "for several write a row each"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return _of_number(column, value, kind, context)


def _of_number(column: str, value: float, kind: str, context: Mapping[str, Any]) -> str | None:
    if column in ("width", "height"):
        return nearest_sides(value)
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"the nearest is {context.get('ge', context.get('le')):g}"
    if kind == "less_than" and isinstance(value, int):
        return f"the nearest is {context['lt'] - 1}"
    if kind not in ("int_type", "int_from_float"):
        return None
    least, most = _bounds(column)
    near = sorted({min(max(number, least), most) for number in (math.floor(value), math.ceil(value))})
    return f"the nearest {'are' if len(near) > 1 else 'is'} {' and '.join(map(str, near))}"


def _bounds(column: str) -> tuple[float, float]:
    """The smallest and the largest number that a column takes."""
    rules = [rule for part in get_args(GIVEN[column].kind.check) for rule in getattr(part, "metadata", ())]
    least = next((rule.ge for rule in rules if hasattr(rule, "ge")), -math.inf)
    return least, next((rule.le for rule in rules if hasattr(rule, "le")), math.inf)


def _of_text(column: str, value: str, kind: str) -> str | None:
    if kind in ("int_type", "float_type"):
        return _number_in(value)
    if kind == "literal_error":
        return _one_of(column, value)
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "it holds half of a character, as text does that was cut inside an emoji"
    if column == "loras" and value.strip():
        return f"for one adapter in full write style, {shorten(value.strip())}, instead"
    given = GIVEN.get(column)
    if given is not None and given.kind is NAME and (name := name_like(value)):
        return f"for example {name}, and keep this one in a column of your own, like {own_name(column)}"
    return None


def _number_in(value: str) -> str | None:
    """What to write for a number that came as text."""
    if not value.strip():
        return "leave it out if there is none"
    text = value.strip().replace(",", ".")
    try:
        good = math.isfinite(float(text))
    except ValueError:
        return None
    return f"write {text}, without quotes" if good and len(text) <= 40 else None


def _one_of(column: str, value: str) -> str | None:
    choices = GIVEN[column].kind.rule.split(" or ")
    close = get_close_matches(value.strip().lower(), choices, 1)
    return f"did you mean {close[0]}?" if close else None


def name_like(text: str) -> str | None:
    """A name that is allowed, made of one that is not; None if that is blank.

    It has letters without marks and `_` for anything else, from the first letter or figure on, and ends in 8
    hexadecimal digits of the SHA-256 of the text, so that texts that look alike then have different names.
    """
    if not text.strip():
        return None
    plain = unicodedata.normalize("NFKD", text[:1000]).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", plain.strip()).strip("._-")[:100]
    return f"{name or 'id'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def shorten(value: object, limit: int = 60) -> str:
    """A value as a message shows it: one line, not long."""
    start = value[: 2 * limit] if isinstance(value, str | bytes) else value  # repr of megabytes takes its time
    text = re.sub(r"\s+", " ", repr(start))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
