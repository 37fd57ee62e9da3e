"""Blend groups: the manifest rows of one group become one row with several sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.columns import SETTINGS
from wanbatch.manifests.reading.arrow_rows import ROWS_SCHEMA, TableBuilder
from wanbatch.manifests.reading.row_model import shorten

Member = Mapping[str, Any]
Report = Callable[[int, int, str], None]
"""Takes a problem: file, position, message."""


def merge_groups(
    lines: pa.Table, broken: set[str], report: Report, location: Callable[[int, int], str]
) -> tuple[pa.Table, list[list[int]] | None]:
    """Merge the groups of a table of `LINES_SCHEMA`.

    A setting may be given by one member or by several; those that give it must agree.

    Args:
        broken: groups with a member that had problems of its own; they may seem to have one member only.
        report: takes the problems found.
        location: names a file and position, for messages.
    Returns:
        The rows (`ROWS_SCHEMA`, ordered by manifest row), and the indices of the `lines` that each came from, in
        order; None means that nothing was merged.
    """
    in_group = pc.is_valid(lines["blend_group"])
    if not pc.any(in_group).as_py():
        return lines.select(ROWS_SCHEMA.names), None
    lines = lines.append_column("index", pa.array(range(len(lines)), pa.int64()))
    members = lines.filter(in_group).sort_by([("blend_group", "ascending"), ("number", "ascending")])
    builder = TableBuilder(ROWS_SCHEMA.append(lines.schema.field("index")))
    others: dict[int, list[int]] = {}
    for name, grouped in groupby(_each(members), key=lambda member: member["blend_group"]):
        group = list(grouped)
        merged = _merge(group, name in broken, report, location)
        builder.add([merged[column] for column in builder.schema.names])
        others[merged["index"]] = [member["index"] for member in group]
    single = lines.filter(pc.invert(in_group)).select(builder.schema.names)
    rows = pa.concat_tables([single, builder.table()]).sort_by("number")
    return rows.select(ROWS_SCHEMA.names), [others.get(index, [index]) for index in rows["index"].to_pylist()]


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


def _each(table: pa.Table) -> Iterator[Member]:
    for batch in table.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _merge(members: list[Member], broken: bool, report: Report, location: Callable[[int, int], str]) -> Member:
    first = members[0]
    name = first["blend_group"]
    if len(members) < 2 and not broken:
        message = f"blend group {name!r} has only this row: it needs two or more; for one image drop blend_group"
        report(first["file"], first["position"], message)
    merged = {**first, "sources": list(_weighted(members))}
    mapped = [member for member in members if member["map_source"] is not None]
    merged["map_source"] = mapped[0]["map_source"] if mapped else None
    if len(mapped) > 1:
        message = f"blend group {name!r} has an embedded creativity_map in several rows: give it in one of them"
        report(mapped[1]["file"], mapped[1]["position"], message)
    for setting in (*SETTINGS, "audio"):
        merged[setting], clash = _agreed(members, setting)
        if clash:
            one, other = clash
            message = (
                f"blend group {name!r} has clashing values of {setting}: {shorten(other[setting])} here, "
                f"{shorten(one[setting])} at {location(one['file'], one['position'])}; give it once or make it equal"
            )
            report(other["file"], other["position"], message)
    return merged


def _weighted(members: Sequence[Member]) -> Iterator[Mapping[str, Any]]:
    weights = [1.0 if m["blend_weight"] is None else m["blend_weight"] for m in members]
    total = sum(weights)
    for member, weight in zip(members, weights, strict=True):
        yield {**member["sources"][0], "weight": weight / total}


def _agreed(members: list[Member], setting: str) -> tuple[Any, tuple[Member, Member] | None]:
    """The group's value of a setting, and the first two members that disagree, if any."""
    given = [m for m in members if m[setting] is not None]
    if not given:
        return None, None
    one = given[0]
    other = next((m for m in given if m[setting] != one[setting]), None)
    return one[setting], (one, other) if other else None
