"""Columns of a manifest that are read as other ones: `--map caption=prompt`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from wanbatch.manifests.columns import GIVEN, WRITTEN
from wanbatch.manifests.reading.column_names import OWN, map_option, meant_column, own_name
from wanbatch.suggestions import closest


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

    def absent(self) -> dict[str, str]:
        """Columns that are to be read as others and are not there, once the whole manifest was read; what to say."""
        there = sorted(self.seen - self.renames.keys())
        listed = f"there are {', '.join(map(repr, there)) or 'none'}"
        return {
            column: f"has no column {column!r}, which {map_option(column, target)} names: "
            + (f"did you mean {nearest!r}?" if (nearest := nearest_name(column, there)) else listed)
            for column, target in self.renames.items()
            if column not in self.seen
        }

    def present_twice(self) -> Iterator[str]:
        """What to say of columns that would be read as others that are there, once the whole manifest was read."""
        for column, target in self.renames.items():
            if column in self.seen and target in self.seen and target not in self.renames:
                yield (
                    f"column {target!r} is there, and {map_option(column, target)} would read {column!r} as {target} "
                    f"too: keep one of them, or rename the other with {map_option(target, own_name(target))}"
                )


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


def nearest_name(name: str, names: Collection[str]) -> str | None:
    """The one among some names that is most like another, or None."""
    likely = (meant_column(name), own_name(name))
    return next((one for one in likely if one in names), None) or closest(name, names)
