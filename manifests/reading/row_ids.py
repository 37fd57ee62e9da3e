"""Ids that several rows of a manifest share."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.reading.arrow_rows import UNKNOWN, knows
from wanbatch.manifests.reading.validation import Problems


def check_ids(rows: pa.Table, problems: Problems) -> None:
    """Report ids that two rows share, also through the numbers that `num_images` adds.

    Args:
        rows: `ROWS_SCHEMA`, `DOUBTFUL_SCHEMA` or what `blend_groups.ID_COLUMNS` names of it, ordered by manifest row.
        problems: takes what is found.
    """
    rows = rows_that_know(rows, "id", "blend_group")
    counts = pc.value_counts(rows["id"])
    shared = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(shared):
        _report_shared(rows.filter(pc.is_in(rows["id"], shared)), problems)
    expanded = rows.filter(pc.greater(pc.fill_null(rows["num_images"], 1), 1))
    if len(expanded):
        _report_expanded(expanded, rows_that_know(rows, "num_images"), problems)


def rows_that_know(rows: pa.Table, *columns: str) -> pa.Table:
    """The rows of which it is known what they give in some columns. rows: `ROWS_SCHEMA` or `DOUBTFUL_SCHEMA`."""
    if UNKNOWN not in rows.column_names:
        return rows
    return rows.filter(pa.array(knows(rows, columns)))


def _report_shared(rows: pa.Table, problems: Problems) -> None:
    first: dict[str, str] = {}
    for row in rows.select(["id", "file", "position"]).to_pylist():
        location = problems.location(row["file"], row["position"])
        if row["id"] in first:
            message = f"id {row['id']!r} is already at {first[row['id']]}: give each row its own"
            problems.add(row["file"], row["position"], message)
        first.setdefault(row["id"], location)


def _report_expanded(expanded: pa.Table, rows: pa.Table, problems: Problems) -> None:
    """`a` with num_images 2 makes `a-0` and `a-1`; a row that is called so clashes with it."""
    counts = dict(zip(expanded["id"].to_pylist(), expanded["num_images"].to_pylist(), strict=True))
    single = rows.filter(pc.less_equal(pc.fill_null(rows["num_images"], 1), 1))
    numbered = single.filter(pc.match_substring_regex(single["id"], r"-(0|[1-9][0-9]{0,2})$"))
    for row in numbered.select(["id", "file", "position"]).to_pylist():
        base, number = re.fullmatch(r"(.*)-(\d+)", row["id"]).groups()  # type: ignore[union-attr]
        if int(number) < counts.get(base, 0):
            message = f"id {row['id']!r} is also image {number} of {base!r} (num_images {counts[base]}): rename one"
            problems.add(row["file"], row["position"], message)
