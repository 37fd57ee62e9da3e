"""Blend groups: the manifest rows of one group become one row with several sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.columns import SETTINGS
from wanbatch.manifests.reading.arrow_rows import DOUBTFUL_SCHEMA, ROWS_SCHEMA, UNKNOWN, TableBuilder
from wanbatch.manifests.reading.row_model import shorten

ID_COLUMNS = ("id", "number", "file", "position", "num_images", UNKNOWN)
"""Of `DOUBTFUL_SCHEMA`: what decides which ids a row makes, and where it is."""
Member = Mapping[str, Any]
GIVEN_ONCE = (*SETTINGS, "audio")
"""What a group has one value of."""
Report = Callable[[int, int, str], None]
"""Takes a problem: file, position, message."""


def merge_groups(
    lines: pa.Table, doubtful: pa.Table, broken: set[str], report: Report, location: Callable[[int, int], str]
) -> tuple[pa.Table, list[list[int]] | None]:
    """Merge the groups of a table of `UNMERGED_SCHEMA`.

    A setting may be given by one member or by several; those that give it must agree, also with what is right of
    members that have other problems.

    Args:
        lines: the good rows.
        doubtful: members of groups that have problems of their own, as far as they are right (`UNMERGED_SCHEMA`).
        broken: groups with a member that had problems of its own; they may seem to have one member only.
        report: takes the problems found.
        location: names a file and position, for messages.
    Returns:
        The rows (`ROWS_SCHEMA`, ordered by manifest row), and the indices of the `lines` that each came from, in
        order; None means that nothing was merged.
    """
    faulty = dict(_groups(doubtful))
    in_group = pc.is_valid(lines["blend_group"])
    if not pc.any(in_group).as_py():
        for name, group in faulty.items():
            _report_clashes(name, group, report, location)
        return lines.select(ROWS_SCHEMA.names), None
    lines = lines.append_column("index", pa.array(range(len(lines)), pa.int64()))
    builder = TableBuilder(ROWS_SCHEMA.append(lines.schema.field("index")))
    others: dict[int, list[int]] = {}
    for name, group in _groups(lines):
        if len(group) < 2 and name not in broken:
            message = f"blend group {name!r} has only this row: it needs two or more; for one image drop blend_group"
            report(group[0]["file"], group[0]["position"], message)
        everyone = sorted([*group, *faulty.pop(name, ())], key=lambda member: member["number"])
        _report_clashes(name, everyone, report, location)
        merged = _merge(group)
        builder.add([merged[column] for column in builder.schema.names])
        others[merged["index"]] = [member["index"] for member in group]
    for name, group in faulty.items():
        _report_clashes(name, group, report, location)
    single = lines.filter(pc.invert(in_group)).select(builder.schema.names)
    rows = pa.concat_tables([single, builder.table()]).sort_by("number")
    return rows.select(ROWS_SCHEMA.names), [others.get(index, [index]) for index in rows["index"].to_pylist()]


def lost_groups(lines: pa.Table, doubtful: pa.Table, members: pa.Table) -> pa.Table:
    """Groups of which no member is right: what would be the id of each, where it is, and how many images it has.

    Args:
        lines: the good rows (`UNMERGED_SCHEMA`).
        doubtful: the others, as far as they are right (`DOUBTFUL_SCHEMA`).
        members: those of them whose group is known (`UNMERGED_SCHEMA`).
    Returns:
        A row a group, with `ID_COLUMNS` of `DOUBTFUL_SCHEMA`.
    """
    kept = frozenset(pc.unique(lines["blend_group"]).to_pylist())
    unknown = dict(zip(doubtful["number"].to_pylist(), doubtful[UNKNOWN].to_pylist(), strict=True))
    builder = TableBuilder(pa.schema([DOUBTFUL_SCHEMA.field(name) for name in ID_COLUMNS]))
    for name, group in _groups(members):
        if name in kept:
            continue
        count = next((member["num_images"] for member in group if member["num_images"] is not None), None)
        wrong = set().union(*(unknown[member["number"]] for member in group)) - {"id", "blend_group"}
        if count is not None:
            wrong -= {"num_images"}
        first = group[0]
        builder.add((name, first["number"], first["file"], first["position"], count, sorted(wrong)))
    return builder.table()


def merge_passthrough(columns: pa.Table, origins: Sequence[Sequence[int]]) -> pa.Table:
    """The passthrough columns of merged rows: of a group's members, the first that gives a value.

    origins: the second result of `merge_groups`.
    """
    groups = [(index, lines) for index, lines in enumerate(origins) if len(lines) > 1]
    first = np.array([lines[0] for lines in origins], dtype=np.int64)
    merged = []
    for column in columns.columns:
        taken, given = first.copy(), pc.is_valid(column).to_numpy()
        for index, lines in groups:
            taken[index] = next((line for line in lines if given[line]), lines[0])
        merged.append(column.take(pa.array(taken)))
    return pa.Table.from_arrays(merged, schema=columns.schema)


def _groups(lines: pa.Table) -> Iterator[tuple[str, list[Member]]]:
    """The members of each group, in their order. lines: `UNMERGED_SCHEMA`; rows of no group may be among them."""
    members = lines.filter(pc.is_valid(lines["blend_group"]))
    members = members.sort_by([("blend_group", "ascending"), ("number", "ascending")])
    for name, group in groupby(_each(members), key=lambda member: member["blend_group"]):
        yield name, list(group)


def _each(table: pa.Table) -> Iterator[Member]:
    for batch in table.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _report_clashes(name: str, members: list[Member], report: Report, location: Callable[[int, int], str]) -> None:
    """Report what members of a group say otherwise than the first that says it. name: of the group."""
    for mapped in [member for member in members if member["map_source"] is not None][1:]:
        message = f"blend group {name!r} has an embedded creativity_map in several rows: give it in one of them"
        report(mapped["file"], mapped["position"], message)
    for setting in GIVEN_ONCE:
        given = [member for member in members if member[setting] is not None]
        for other in given[1:]:
            if other[setting] != given[0][setting]:
                first = location(given[0]["file"], given[0]["position"])
                message = (
                    f"blend group {name!r} has clashing values of {setting}: {shorten(other[setting])} here, "
                    f"{shorten(given[0][setting])} at {first}; give it once or make it equal"
                )
                report(other["file"], other["position"], message)


def _merge(members: list[Member]) -> Member:
    """The row that members make: of each setting the first value that one of them gives."""
    given = {
        name: next((member[name] for member in members if member[name] is not None), None)
        for name in ("map_source", *GIVEN_ONCE)
    }
    return {**members[0], "sources": list(_weighted(members)), **given}


def _weighted(members: Sequence[Member]) -> Iterator[Mapping[str, Any]]:
    weights = [1.0 if m["blend_weight"] is None else m["blend_weight"] for m in members]
    total = sum(weights)
    for member, weight in zip(members, weights, strict=True):
        yield {**member["sources"][0], "weight": weight / total}
