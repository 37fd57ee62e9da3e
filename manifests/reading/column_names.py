"""Columns of a manifest that seem to mean one that wanbatch knows. Pure.

A column that wanbatch does not know passes through, so one that is misspelt, or that another tool calls otherwise,
would be ignored without a word. The names of other tools stand beside each column in `column_table.py`.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.manifests.column_types import IMAGES, SOUND
from wanbatch.manifests.columns import GIVEN, LATER, WRITTEN

OWN = "source_"
"""What the name of a column begins with that is the manifest's own, whatever it looks like."""

WORDS_OF_THEIR_OWN = frozenset(("audios", "sample", "samples", "scheduled", "speed", "styled", "styles", "weight"))
"""Words that are one letter away from a column's name and often mean something else in a dataset."""

LONG = 8
"""From so many letters on a name with a wrong one counts as misspelt; shorter ones may be words, like shirt."""


@dataclass(frozen=True, slots=True)
class UnusedColumn:
    """A column that passes through and seems to mean one that wanbatch knows.

    Attributes:
        column: as the manifest has it.
        meant: the column that it seems to mean.
        rows: how many rows have a value in it and none in `meant`.
        mixed: other rows have a value in `meant`.
        rival: an earlier column that seems to mean the same; None: there is none.
        lists: its values are lists, and those of `meant` are not.
    """

    column: str
    meant: str
    rows: int
    mixed: bool
    rival: str | None = None
    lists: bool = False

    @property
    def can_be_mapped(self) -> bool:
        """Whether the manifest could be run with the column read as the one that it seems to mean."""
        return not (self.mixed or self.rival or self.lists)

    @property
    def option(self) -> str:
        """The flag that has the column read as the one that it seems to mean."""
        return map_option(self.column, self.meant)

    @property
    def keeping(self) -> str:
        """The flag that keeps the column as one of the manifest's own, with which nothing is warned of."""
        return map_option(self.column, own_name(self.column))

    @property
    def note(self) -> str | None:
        """What else there is to say of the two columns, or None."""
        if self.mixed:
            rows = number_of(self.rows, "rows", "has", "have")
            return f"{rows} no {self.meant}, and others have: put the values of {self.column!r} there"
        if self.lists:
            return f"its values are lists: give one {self.meant} a row, with a row for each"
        if self.rival:
            return f"or {self.rival!r} is what is meant: take one of them"
        own = same_name(self.column, self.meant) or _one_slip(_snake(self.column), self.meant)
        return None if own else GIVEN[self.meant].differs

    @property
    def message(self) -> str:
        """One sentence with the remedy."""
        remedy = f" Take it with {self.option}" if self.can_be_mapped else ""
        note = f" ({self.note})" if self.note else ""
        return f"column {self.column!r} is not used; did you mean {self.meant}?{remedy}{note}"

    def as_json(self) -> dict[str, Any]:
        """The column, the one that it seems to mean, and the sentence about them."""
        return {"column": self.column, "did_you_mean": self.meant, "rows": self.rows, "message": self.message}

    @property
    def strict_message(self) -> str:
        """The same, with how to keep the column as one of the manifest's own."""
        return f"{self.message}; or keep it as a column of your own with {self.keeping}"


def unused_columns(rows: pa.Table, passthrough: pa.Table) -> tuple[UnusedColumn, ...]:
    """The passthrough columns that seem to mean another, in their order.

    A column is not one of them where each of its values stands beside one in the column that it seems to mean.

    Args:
        rows: what the manifest asks (`ROWS_SCHEMA`).
        passthrough: the other columns of the same rows.
    """
    import pyarrow.compute as pc  # slow to import, and every command reads this module

    found = []
    rivals: dict[str, str] = {}
    for name in passthrough.column_names:
        meant = meant_column(name)
        lists = meant == "prompt" and _holds(passthrough[name].type, *_LISTS)
        if meant is None or not (lists or same_name(name, meant) or _could_be(passthrough[name], meant)):
            continue
        given = _given(rows, meant)
        count = pc.sum(pc.and_(pc.is_valid(passthrough[name]), pc.invert(given))).as_py()
        if count:
            column = UnusedColumn(name, meant, count, pc.any(given).as_py(), rivals.get(meant), lists)
            rivals.setdefault(meant, name)
            found.append(column)
    return tuple(found)


def suspects(names: Collection[str]) -> Iterator[UnusedColumn]:
    """The columns of a manifest that seem to mean one that it lacks, by their names alone."""
    rivals: dict[str, str] = {}
    for name in sorted(names):
        if (meant := meant_column(name)) is not None and meant not in names:
            yield UnusedColumn(name, meant, 0, False, rivals.get(meant))
            rivals.setdefault(meant, name)


@lru_cache(maxsize=4096)
def meant_column(name: str) -> str | None:
    """The column that the name of an unknown one seems to mean, or None."""
    if name in GIVEN or name in WRITTEN or name.startswith(OWN):
        return None
    key = _key(name)
    return _KEYS.get(key) or (None if key in WORDS_OF_THEIR_OWN else _misspelt(_snake(name)))


def same_name(name: str, column: str) -> bool:
    """Whether a name is a column's own but for case, spaces, hyphens and the like."""
    return _key(name) == _key(column)


def map_option(column: str, target: str) -> str:
    """The flag that has a column read as another, as a shell takes it."""
    return f"--map {shlex.quote(f'{column}={target}')}"


def if_own(column: str) -> str:
    """What to add to a message about the values of a column that release 0.1.0 did not know: it may be their own."""
    later = column in GIVEN and column in LATER
    return f"; or, if it is a column of your own, {map_option(column, own_name(column))}" if later else ""


def own_name(column: str) -> str:
    """A name under which a column passes through, whatever its own name looks like."""
    return f"{OWN}{_snake(column)}"


def aliases_table() -> str:
    """The names that other tools have for the columns, as the documentation shows them."""
    lines = ["| column | also known as | what differs |", "|---|---|---|"]
    for name, given in GIVEN.items():
        if given.aliases:
            lines.append(
                f"| `{name}` | {', '.join(f'`{alias}`' for alias in given.aliases)} | {given.differs or ''} |"
            )
    return "\n".join(lines)


def _given(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """Whether each row gives a column that the manifest may give."""
    import pyarrow.compute as pc

    if GIVEN[column].role == "source":
        return pc.greater(pc.fill_null(pc.list_value_length(rows["sources"]), 0), 0)
    if column == "id":
        numbered = pc.utf8_lpad(pc.cast(rows["number"], pa.string()), 8, "0")
        return pc.not_equal(rows["id"], numbered)
    if column not in rows.column_names:  # columns of groups, which are merged
        return pa.chunked_array([pa.repeat(False, len(rows))])
    return pc.is_valid(rows[column])


_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_IMAGES = (*_TEXT, *_LISTS, pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary)


def _holds(kind: pa.DataType, *which: Callable[[pa.DataType], bool]) -> bool:
    return any(is_one(kind) for is_one in which)


def _could_be(values: pa.ChunkedArray, column: str) -> bool:
    """Whether values could be meant for a column, by their type; text where a number is due, by its first value."""
    kind, due = values.type, GIVEN[column].kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if due in (IMAGES, SOUND):
        return _holds(kind, *_IMAGES)
    if pa.types.is_list(due.type):
        return _holds(kind, *_TEXT, *_LISTS)
    if pa.types.is_string(due.type):
        return _holds(kind, *_TEXT)
    if _holds(kind, *_TEXT):
        return values.null_count < len(values) and _is_number(values.drop_null()[0].as_py())
    return _holds(kind, *_NUMBERS)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _snake(name: str) -> str:
    """A name in lower case, its words joined by underscores; `cfgScale` and `CFG scale` are `cfg_scale`."""
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    parts: list[str] = []
    for before, letter in zip(" " + text, text, strict=False):
        new_word = letter.isupper() and (before.islower() or before.isdigit())
        parts.append(f"_{letter}" if new_word else letter if letter.isalnum() else "_")
    return "_".join(word for word in "".join(parts).casefold().split("_") if word)


def _key(name: str) -> str:
    """A name without case and without what stands between its words."""
    return _snake(name).replace("_", "")


def _names() -> dict[str, str]:
    columns = {_key(name): name for name in GIVEN}
    aliases = {_key(alias): name for name, given in GIVEN.items() for alias in given.aliases}
    return {**aliases, **columns}


_KEYS = _names()


def _misspelt(name: str) -> str | None:
    """The column whose name, or whose name in another tool, is one slip of the keys away."""
    own = next((column for column in GIVEN if len(column) > 3 and _one_slip(name, column)), None)
    if own is not None:
        return own
    aliases = ((alias, column) for column, given in GIVEN.items() for alias in given.aliases)
    return next((column for alias, column in aliases if len(alias) >= LONG and _one_slip(name, alias)), None)


def _one_slip(name: str, right: str) -> bool:
    """Whether a letter too many, one too few, two that changed places, or in long names a wrong one, is all.

    Digits are no slips: `prompt_2` is another prompt. Neither is a word of one letter more.
    """
    if abs(len(name) - len(right)) > 1 or [c for c in name if c.isdigit()] != [c for c in right if c.isdigit()]:
        return False
    if name.count("_") > right.count("_"):
        return False
    shorter, longer = sorted((name, right), key=len)
    at = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    if len(shorter) < len(longer):
        return shorter[at:] == longer[at + 1 :]
    swapped = name[at:][:2][::-1] + name[at + 2 :] == right[at:]
    return swapped or (len(right) >= LONG and name[at + 1 :] == right[at + 1 :])
