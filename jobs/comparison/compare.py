"""Compares two output folders: what is only in one, what was asked otherwise, and how far the pictures are apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch import __version__
from wanbatch.errors import UserError
from wanbatch.jobs.comparison import matching
from wanbatch.jobs.comparison.matching import Matched, match, request_differences, unknown_adapters
from wanbatch.jobs.comparison.measuring import Measured, Side, measure
from wanbatch.jobs.reporting.report import work
from wanbatch.jobs.reporting.report.groups import creativity_name
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.fingerprint import differences
from wanbatch.manifests.dataset.status import status

FORMAT = 1
IDS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found.

    Attributes:
        data: everything, as JSON values; `rows` has one for each pair.
        measured: of each pair, in the order of the manifest.
        sides: the two folders.
        tables: the rows of `data/` of each, without pictures.
    """

    data: dict[str, Any]
    measured: Sequence[Measured]
    sides: tuple[Side, Side]
    tables: tuple[pa.Table, pa.Table]


def compare(first: str | Path, second: str | Path, metrics: Sequence[str], limit: int | None = None) -> Comparison:
    """Compare two output folders by the ids that both have.

    Args:
        first, second: the folders, or their URLs.
        metrics: of `measuring.METRICS`.
        limit: pairs that are measured, at most, evenly spread; None: all.

    Raises:
        UserError: One is no output folder, they have no id in common, or a metric's package is missing.
        MachineryError: One cannot be read.
    """
    statuses = [status(out) for out in (first, second)]
    parts = [CommittedParts.open(out) for out in (first, second)]
    tables = [_table(of, out) for of, out in zip(parts, (first, second), strict=True)]
    matched = match(*tables)
    if not matched.pairs:
        shown = ", ".join(
            f"{out} has {of['id'][0].as_py()!r}" for out, of in zip((first, second), tables, strict=True)
        )
        raise UserError(f"{first} and {second}: have no id in common ({shown}): compare folders of one manifest")
    sides = (Side.of(parts[0], tables[0]), Side.of(parts[1], tables[1]))
    pairs = matching.chosen(matched.pairs, limit)
    measured = list(measure(*sides, pairs, metrics))
    data = {
        "format": FORMAT,
        "wanbatch": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "folders": [of.backend.root for of in parts],
        **_counts(matched, measured),
        "failed": [found["quarantined"] for found in statuses],
        "only_in": [_named(matched.only_first), _named(matched.only_second)],
        "requests_differ": request_differences(matched, *tables),
        "adapters_unknown": unknown_adapters(matched, *tables),
        "settings_differ": list(differences(statuses[0]["fingerprint"], statuses[1]["fingerprint"])),
        "metrics": _metrics(measured, metrics),
        "by_creativity": _by_creativity(measured, tables[0], metrics),
        "seconds_of_a_picture": [_seconds(of, {pair.id for pair in matched.pairs}) for of in parts],
        "rows": [_row(one) for one in measured],
    }
    return Comparison(data, measured, sides, (tables[0], tables[1]))


def _table(parts: CommittedParts, out: str | Path) -> pa.Table:
    table = parts.table("data", matching.COLUMNS)
    if table is None or not len(table):
        raise UserError(f"{out}: has no pictures yet to compare")
    return table


def _counts(matched: Matched, measured: Sequence[Measured]) -> dict[str, Any]:
    return {
        "pairs": len(matched.pairs),
        "measured": len(measured),
        "same_pixels": sum(pair.same_pixels for pair in matched.pairs),
        "not_comparable": sum(one.problem is not None for one in measured),
    }


def _named(ids: Sequence[str]) -> dict[str, Any]:
    return {"images": len(ids), "ids": list(ids[:IDS_SHOWN])}


def _metrics(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        if values := [one.values[name] for one in measured if name in one.values]:
            found[name] = {**matching.figures(values), "distribution": matching.distribution(values)}
    return found


def _by_creativity(measured: Sequence[Measured], table: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    """Means of each metric for images of each creativity."""
    creativity = table["creativity"].to_pylist()
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        if one.values:
            groups.setdefault(creativity_name(creativity[one.pair.first]), []).append(one)
    return [
        {
            "creativity": name,
            "images": len(of),
            **{metric: round(sum(one.values[metric] for one in of) / len(of), 5) for metric in names},
        }
        for name, of in sorted(groups.items())
    ]


def _seconds(parts: CommittedParts, ids: set[str]) -> dict[str, float]:
    """Mean seconds of each stage of the images that both folders have; `all` is their sum."""
    timings = parts.table("timings", ("id", *work.COLUMNS))
    if timings is None:
        return {}
    timings = timings.filter(pa.array([name in ids for name in timings["id"].to_pylist()], pa.bool_()))
    if not len(timings):
        return {}
    means = {stage: value / len(timings) for stage, value in work.stage_seconds(timings).items()}
    return {name: round(value, 5) for name, value in {**means, "all": sum(means.values())}.items()}


def _row(one: Measured) -> dict[str, Any]:
    row = {"id": one.pair.id, "same_pixels": one.pair.same_pixels, **one.values}
    if one.pair.differs:
        row["differs"] = list(one.pair.differs)
    return row if one.problem is None else {**row, "problem": one.problem}


def as_json(comparison: Comparison) -> str:
    """The comparison as the text of a JSON file."""
    return json.dumps(comparison.data, indent=1, ensure_ascii=False) + "\n"
