"""Columns of a manifest that seem to mean one that wanbatch knows, and columns that are read as other ones. Pure.

A column that wanbatch does not know passes through, so one that is misspelt, or that another tool calls otherwise,
would be ignored without a word. The names of other tools stand beside each column in `columns.py`.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.column_types import IMAGES
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
    """

    column: str
    meant: str
    rows: int
    mixed: bool

    @property
    def can_be_mapped(self) -> bool:
        """Whether the manifest could be run with the column read as the one that it seems to mean."""
        return not (self.mixed or GIVEN[self.meant].reserved)

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
            rows = f"{self.rows} rows have" if self.rows > 1 else "1 row has"
            return f"{rows} no {self.meant}, and others have: put the values of {self.column!r} there"
        if missing := GIVEN[self.meant].reserved:
            return f"this version has no {missing} yet"
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


class ColumnMap:
    """Columns of a manifest that are read as other ones.

    Attributes:
        renames: column of the manifest -> what it is read as; `map_problem` found nothing wrong with it.
        of_kind: what the manifest's kind calls a column, before `renames` is asked: an output folder's own columns
            are `source_...`.
        seen: the columns of the manifest, as the kind calls them.
    """

    def __init__(self, renames: Mapping[str, str], of_kind: Callable[[str], str] = str):
        self.renames, self.of_kind = renames, of_kind
        self.seen: set[str] = set()
        self._stored: dict[str, str] = {}

    @property
    def names(self) -> set[str]:
        """The columns of the manifest, under the names by which they are read."""
        return {self.renames.get(name, name) for name in self.seen}

    def name_of(self, column: str) -> str:
        """The name under which a column of the manifest is read."""
        called = self.of_kind(column)
        self.seen.add(called)
        name = self.renames.get(called, called)
        self._stored[name] = column
        return name

    def renamed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row with the names under which its columns are read; for kinds that call columns as they are stored."""
        self.seen.update(row)
        return {self.renames.get(name, name): value for name, value in row.items()} if self.renames else row

    def stored_name(self, column: str) -> str:
        """The name that a column that is read so has in the manifest."""
        return self._stored.get(column, column)

    def problems(self) -> Iterator[str]:
        """What is wrong with it, once the whole manifest was read: what is not there, and what is there twice."""
        for column, target in self.renames.items():
            option = map_option(column, target)
            if column not in self.seen:
                there = sorted(self.seen - self.renames.keys())
                nearest = nearest_name(column, there)
                hint = (
                    f"did you mean {nearest!r}?" if nearest else f"there are {', '.join(map(repr, there)) or 'none'}"
                )
                yield f"has no column {column!r}, which {option} names: {hint}"
            elif target in self.seen and target not in self.renames:
                yield (
                    f"column {target!r} is there, and {option} would read {column!r} as {target} too: keep one of "
                    f"them, or rename the other with {map_option(target, own_name(target))}"
                )


def unused_columns(rows: pa.Table, passthrough: pa.Table) -> tuple[UnusedColumn, ...]:
    """The passthrough columns that seem to mean another, in their order.

    A column is not one of them where each of its values stands beside one in the column that it seems to mean.

    Args:
        rows: what the manifest asks (`ROWS_SCHEMA`).
        passthrough: the other columns of the same rows.
    """
    found = []
    for name in passthrough.column_names:
        meant = meant_column(name)
        if meant is None or not (same_name(name, meant) or _could_be(passthrough[name], meant)):
            continue
        given = _given(rows, meant)
        count = pc.sum(pc.and_(pc.is_valid(passthrough[name]), pc.invert(given))).as_py()
        if count:
            found.append(UnusedColumn(name, meant, count, pc.any(given).as_py()))
    return tuple(found)


def suspects(names: Collection[str]) -> Iterator[UnusedColumn]:
    """The columns of a manifest that seem to mean one that it lacks, by their names alone."""
    for name in sorted(names):
        if (meant := meant_column(name)) is not None and meant not in names:
            yield UnusedColumn(name, meant, 0, False)


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


def nearest_name(name: str, names: Collection[str]) -> str | None:
    """The one among some names that is most like another, or None."""
    meant = meant_column(name)
    if meant in names:
        return meant
    close = get_close_matches(name.casefold(), {one.casefold(): one for one in names}, n=1, cutoff=0.6)
    return next((one for one in names if close and one.casefold() == close[0]), None)


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


def map_problem(pairs: Mapping[str, str]) -> str | None:
    """What is wrong with the columns that are to be read as others, before any manifest is looked at; None: nothing.

    Args:
        pairs: column of the manifest -> what it is read as.
    """
    for column, target in pairs.items():
        if column == target:
            return f"{column!r} is mapped to itself: drop it"
        if target not in GIVEN and (not target.startswith(OWN) or target in WRITTEN):
            meant = nearest_name(target, list(GIVEN))
            hint = f"did you mean {meant}?" if meant else f"known are {', '.join(GIVEN)}."
            return (
                f"{target!r} is not a column that wanbatch reads; {hint} To pass {column!r} through under another "
                f"name, map it to one that begins with {OWN}, like {own_name(column)}"
            )
    targets = list(pairs.values())
    for target in dict.fromkeys(targets):
        sources = [repr(column) for column, its in pairs.items() if its == target]
        if len(sources) > 1:
            return f"{' and '.join(sources)} are both mapped to {target!r}: keep one"
    return None


def _given(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """Whether each row gives a column that the manifest may give."""
    if GIVEN[column].role == "source":
        return pc.greater(pc.fill_null(pc.list_value_length(rows["sources"]), 0), 0)
    if column == "id":
        numbered = pc.utf8_lpad(pc.cast(rows["number"], pa.string()), 8, "0")
        return pc.not_equal(rows["id"], numbered)
    if column not in rows.column_names:  # columns of groups, which are merged
        return pa.chunked_array([pa.repeat(False, len(rows))])
    return pc.is_valid(rows[column])


def _could_be(values: pa.ChunkedArray, column: str) -> bool:
    """Whether values could be meant for a column, by their type; text where a number is due, by its first value."""
    kind, due = values.type, GIVEN[column].kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if due is IMAGES:
        return (
            text or listed or pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        )
    if pa.types.is_list(due.type):
        return text or listed
    if pa.types.is_string(due.type):
        return text
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return number or (text and _is_number(next((value.as_py() for value in values if value.is_valid), "")))


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
