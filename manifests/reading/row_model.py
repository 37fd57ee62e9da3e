"""What one manifest row may say: types, bounds, and the words for what is wrong with it.

The same model checks rows of JSONL and of Parquet. Types are strict: no text where a number is due, no
`true` for 1, no NaN. A float without a fraction is taken for an integer, because pandas writes integer
columns that have gaps that way.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from pydantic import ValidationError, create_model

from wanbatch.manifests.column_types import BoxValue, ImageValue, LoraValue, Strict
from wanbatch.manifests.columns import GIVEN
from wanbatch.manifests.reading.column_names import if_own
from wanbatch.manifests.reading.contradictions import contradictions
from wanbatch.manifests.reading.nearest import nearest, shorten

EMBEDDED = b""
"""Stands for the bytes of an embedded image, which are not read with the manifest."""

KNOWN = frozenset(GIVEN)
RULES = {name: given.kind.rule for name, given in GIVEN.items()} | {
    f"{name}.{part}": rule for name, given in GIVEN.items() for part, rule in given.kind.parts.items()
}

_fields: dict[str, Any] = {name: (given.kind.check | None, None) for name, given in GIVEN.items()}
_Columns: Any = create_model("_Columns", __base__=Strict, **_fields)


class ManifestRow(_Columns):
    """The columns of one manifest row that wanbatch knows, an attribute each (`columns.GIVEN`). None: not given."""

    @property
    def source_images(self) -> list[ImageValue]:
        """The source images of the row, whichever column they are in."""
        return self.image or self.images or []


def parse_row(values: Mapping[str, Any], prompt_of_run: bool = False) -> tuple[ManifestRow | None, list[str]]:
    """Check the known columns of one row. prompt_of_run: the run has a prompt for rows that give none.

    Returns the row, or None with every problem found, one sentence each.
    """
    row, problems, _ = judge_row(values, prompt_of_run)
    return (None, problems) if problems else (row, [])


def judge_row(
    values: Mapping[str, Any], prompt_of_run: bool = False, unread: Set[str] = frozenset()
) -> tuple[ManifestRow, list[str], Set[str]]:
    """Check the known columns of one row, and what can be said of the others if some are wrong.

    Args:
        values: by column, those that are given and could be read.
        prompt_of_run: the run has a prompt for rows that give none.
        unread: columns that may be given, but could not be read. Nothing is said that depends on them.
    Returns:
        The row without its wrong values; every problem found, one sentence each; and the columns whose values are not
        known, since they are wrong or were not read.
    """
    problems: list[str] = []
    try:
        row = ManifestRow.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [_words(one, values) for one in found]
        unread = unread | {str(one["loc"][0]) for one in found}
        row = ManifestRow.model_validate({name: value for name, value in values.items() if name not in unread})
    for columns, message in contradictions(row, prompt_of_run):
        if unread.isdisjoint(columns):
            problems.append(message)
    return row, problems, unread


def _words(error: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence with the field inside the row and the remedy."""
    where = [part for part in error["loc"] if isinstance(part, str | int)]
    if where[0] in ("image", "images") and len(where) > 1 and not isinstance(values[where[0]], list):
        del where[1]  # one image that was not in a list
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]
    columns = [part for part in where if isinstance(part, str)]
    if error["type"] == "extra_forbidden":
        parts: dict[str, type[Strict]] = {"loras": LoraValue, "creativity_boxes": BoxValue}
        return f"{field} is unknown; known are {', '.join(parts.get(columns[0], ImageValue).model_fields)}"
    if error["type"] == "missing":
        return f"{field} is missing: must be {RULES['.'.join(columns)]}"
    if error["type"] == "lost_digits":
        return f"{field} is {shorten(error['input'])}: {error['msg']}"
    hint = f"; {found}" if (found := nearest(columns[0], error)) else ""
    return f"{field} is {shorten(error['input'])}: must be {RULES['.'.join(columns)]}{hint}{if_own(columns[0])}"
