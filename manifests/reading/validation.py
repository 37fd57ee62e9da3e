"""What all readers share: problems with their locations, and the way from plain values to columns."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal

import pyarrow as pa

from wanbatch.errors import ManifestError, Problem
from wanbatch.manifests.columns import WRITTEN
from wanbatch.manifests.reading.arrow_rows import (
    DOUBTFUL_SCHEMA,
    ROWS_SCHEMA,
    UNMERGED_SCHEMA,
    TableBuilder,
    row_values,
)
from wanbatch.manifests.reading.column_map import ColumnMap
from wanbatch.manifests.reading.column_names import map_option, own_name
from wanbatch.manifests.reading.contradictions import NOTHING_ASKED
from wanbatch.manifests.reading.row_model import KNOWN, ManifestRow, judge_row, shorten
from wanbatch.manifests.sources.path_policy import PathPolicy

FIRST_ROWS = 4096  # after which a manifest may be taken for a good one (`RowChecker.after_first`)
RESERVED = frozenset(WRITTEN) - KNOWN
"""Columns that only the output has; a passthrough column cannot be called so."""


Positions = Literal["line", "row", "file"]
"""What a position in a file of a manifest counts: lines from 1, rows from 0, or nothing, as the file is one row."""


def location_of(file: str, positions: Positions, position: int) -> str:
    """Where a row is, as messages say it: `shop.jsonl:7`, `shop.parquet row 7`, or the file's name."""
    if position < 0 or positions == "file":
        return file
    return f"{file}:{position}" if positions == "line" else f"{file} row {position}"


class Problems:
    """Everything wrong with a manifest, in any order, and what its reader warns of.

    Attributes:
        files: as the user wrote them.
        positions: what positions in them count.
        limit: how many problems are collected before reading ends.
        warnings: sentences about what is not read or not used, each with its file; the manifest is valid with them.
    """

    def __init__(self, files: Sequence[str], positions: Positions, limit: int = 10_000):
        self.files, self.positions, self.limit = files, positions, limit
        self.warnings: list[str] = []
        self._found: list[tuple[int, int, str]] = []

    def warn(self, file: int, message: str) -> None:
        """Note what is ignored, once. file: index into `files`."""
        warning = f"{self.files[file]}: {message}"
        if warning not in self.warnings:
            self.warnings.append(warning)

    def add(self, file: int, position: int, message: str) -> None:
        """file: index into `files`. position: below 0 for the file as a whole.

        Raises:
            ManifestError: at `limit` problems; the manifest is not read to its end then.
        """
        self._found.append((file, position, message))
        if len(self._found) >= self.limit:
            self._found.append((file, position, f"{self.limit} problems; the rest was not read"))
            self.raise_any()

    def add_cause(self, message: str) -> None:
        """Add what may be the cause of others, of the manifest as a whole; also if there are `limit` problems."""
        self._found.append((0, -1, message))

    def location(self, file: int, position: int) -> str:
        """A position as messages say it; below 0 the file as a whole. file: index into `files`."""
        return location_of(self.files[file], self.positions, position)

    @property
    def found(self) -> bool:
        """Whether there is any problem."""
        return bool(self._found)

    def raise_any(self) -> None:
        """Raises ManifestError with all problems, ordered by location, if there is one."""
        if self._found:
            ordered = sorted(self._found, key=lambda found: found[:2])
            raise ManifestError([Problem(self.location(file, at), text) for file, at, text in ordered])


class RowChecker:
    """Checks rows one after the other and keeps the good ones as columns.

    Attributes:
        problems: takes what is wrong with them.
        columns: columns of the manifest that are read under another name. Readers ask `name_of` for each column
            before anything else.
        count: how many rows have been seen, good or not.
        broken_groups: blend groups with a row that has problems.
        nothing_asked: a row had neither a prompt nor a source.
        image_folders: of each file, the folder below the manifest's that its paths of images start from, if any do.
        after_first: called once, when the first `FIRST_ROWS` rows have been seen; None: nothing is.
    """

    def __init__(
        self,
        rules: PathPolicy,
        problems: Problems,
        columns: ColumnMap | None = None,
        prompt_of_run: bool = False,
    ):
        """Begin with no rows. prompt_of_run: the run has a prompt for rows that give none."""
        self.problems = problems
        self.columns = columns or ColumnMap({})
        self.image_folders: Sequence[str] = ()
        self.after_first: Callable[[], None] | None = None
        self._prompt_of_run = prompt_of_run
        self.count = 0
        self.broken_groups: set[str] = set()
        self.nothing_asked = False
        self._rules = rules
        self._builder = TableBuilder(UNMERGED_SCHEMA)
        self._doubtful = TableBuilder(DOUBTFUL_SCHEMA)
        self._doubtful_members = TableBuilder(UNMERGED_SCHEMA)

    def leaves_fence(self, location: str) -> bool:
        """Whether a local file is outside the folder that no source may leave, with its links resolved."""
        return not self._rules.in_store and not self._rules.is_inside(os.path.realpath(location))

    def renamed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row with the names under which its columns are read."""
        return self.columns.renamed(values)

    def name_of(self, column: str) -> str:
        """The name under which a column of the manifest is read."""
        return self.columns.name_of(column)

    def skip(self) -> None:
        """Count a row that is not even readable, so that the others keep their numbers."""
        self.count += 1

    def add(self, values: Mapping[str, Any], file: int, position: int, unread: Set[str] = frozenset()) -> bool:
        """Check one row.

        Args:
            values: its known columns that are not null.
            file, position: where it is.
            unread: columns that could not be read, which is told of already.
        Returns:
            Whether it was kept.
        """
        if self.image_folders and isinstance(path := values.get("image"), str):
            values = {**values, "image": posixpath.join(self.image_folders[file], path)}
        line, wrong, unknown = judge_row(values, self._prompt_of_run, unread)
        bad_paths = list(self._path_problems(line))
        kept = not (wrong or bad_paths or unknown)
        if not kept:
            self.nothing_asked = self.nothing_asked or NOTHING_ASKED in wrong
            for message in (*wrong, *(message for _, message in bad_paths)):
                self.problems.add(file, position, message)
            self.broken_groups.add(str(values.get("blend_group")))
            self._add_doubtful(line, unknown | {name for name, _ in bad_paths}, file, position)
        else:
            self._builder.add(row_values(line, self.count, file, position, self.columns.stored_name))
        self.count += 1
        if self.count >= FIRST_ROWS and self.after_first is not None:
            call, self.after_first = self.after_first, None
            call()
        return kept

    def doubtful(self) -> pa.Table:
        """The rows of those seen so far that were not kept, as far as they are right (`DOUBTFUL_SCHEMA`)."""
        return self._doubtful.table()

    def doubtful_members(self) -> pa.Table:
        """Those of them whose blend group is known (`UNMERGED_SCHEMA`); values that are wrong are null."""
        return self._doubtful_members.table()

    def lines(self) -> pa.Table:
        """The good rows of those seen so far (`UNMERGED_SCHEMA`)."""
        return self._builder.table()

    def _add_doubtful(self, line: ManifestRow, unknown: Set[str], file: int, position: int) -> None:
        """Keep what is right of a row that is not. unknown: its columns that are not."""
        if "image" in unknown:
            unknown = unknown | {"images"}
        if line.blend_group is not None and "blend_group" not in unknown:
            member = line.model_copy(update=dict.fromkeys((*unknown, "blend_weights")))
            self._doubtful_members.add(row_values(member, self.count, file, position, self.columns.stored_name))
        if line.blend_group is not None:
            unknown = unknown | {"blend_group"}
        right = line.model_copy(update=dict.fromkeys((*unknown, "blend_weights")))
        its = row_values(right, self.count, file, position, self.columns.stored_name)[: len(ROWS_SCHEMA)]
        self._doubtful.add((*its, sorted(unknown)))

    def _path_problems(self, line: ManifestRow) -> Iterator[tuple[str, str]]:
        """Pairs of a column and what is wrong with a path in it."""
        given = [("image", image) for image in line.source_images]
        alone = {"creativity_map": line.creativity_map, "audio": line.audio}
        given += [(name, value) for name, value in alone.items() if value is not None]
        for name, image in given:
            if image.bytes is not None:
                continue
            if image.path is None:
                what = "an image" if name == "image" else name
                yield name, f"has {what} with neither bytes nor path: give one of them"
            elif not image.path:
                yield name, f"{name} '' is empty: leave it out if there is none"
            elif problem := self._rules.problem(image.path):
                yield name, f"{name} {shorten(image.path)} {problem}"


def reserved_name(name: str) -> str:
    """The message about a passthrough column that the output would need for itself."""
    return f"column {name!r} is also one that wanbatch writes: rename it, or {map_option(name, own_name(name))}"


def _nested_dictionary(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and pa.types.is_nested(kind.value_type)


_NOT_IN_PARQUET = (pa.types.is_interval, pa.types.is_union, pa.types.is_run_end_encoded, _nested_dictionary)


def bad_type(kind: pa.DataType) -> str | None:
    """Why values of a type cannot be written to Parquet and read back, or None."""
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return "holds empty objects, which Parquet cannot store"
    if any(is_one(kind) for is_one in _NOT_IN_PARQUET):
        return f"is or holds {kind}, which Parquet cannot store"
    if kind.num_fields == 0:
        return None
    if _depth(kind) > 32:
        return "is nested more than 32 levels deep"
    return next((why for i in range(kind.num_fields) if (why := bad_type(kind.field(i).type))), None)


def _depth(kind: pa.DataType) -> int:
    """How many levels of lists and structs, counted up to 33."""
    level, depth = [kind], 0
    while level and depth <= 32:
        level = [outer.field(i).type for outer in level for i in range(outer.num_fields)]
        depth += 1
    return depth
