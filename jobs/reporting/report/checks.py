"""What `wanbatch check` found in a folder: each measure, and the images that are worst by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.columns import WRITTEN
from wanbatch.manifests.dataset.checks import FOLDER, REJECTED_BY, checks_tables
from wanbatch.manifests.storage.backend import open_backend

WORST = 12
"""Images that are shown of each measure."""

LOW, HIGH, APART = "lowest first", "highest first", "farthest from the middle first"
KNOWN: dict[str, tuple[tuple[str, ...], str]] = {
    "decodes": (("undecodable",), LOW),
    "size_matches": (("wrong_size",), LOW),
    "brightness": (("black",), LOW),
    "contrast": (("flat",), LOW),
    "sharpness": (("blurred",), LOW),
    "exact_duplicate": (("exact_duplicate",), HIGH),
    "near_duplicate": (("near_duplicate",), HIGH),
    "source_distance": (("too_near", "too_far"), APART),
    "too_near": (("too_near",), HIGH),
    "too_far": (("too_far",), HIGH),
    "near_held_out": (("held_out_copy",), HIGH),
    "source_moved": (("source_moved",), HIGH),
    "label_rank": (("wrong_class",), HIGH),
    "label_confidence": (("wrong_class",), LOW),
}
"""Measures of `wanbatch check`: what of `rejected_by` is about them, and which of their values come first."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of all images.

    Attributes:
        name: of its column.
        images: how many have a value.
        rejected: how many were rejected for it.
        order: which images come first, in words.
        worst: their ids, the worst first, with their values.
        least, mean, most: of the values; of yes and no, as 1 and 0.
    """

    name: str
    images: int
    rejected: int
    order: str
    worst: tuple[tuple[str, float], ...]
    least: float | None = None
    mean: float | None = None
    most: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Its attributes as JSON values."""
        return {
            **{
                name: getattr(self, name) for name in ("name", "images", "rejected", "order", "least", "mean", "most")
            },
            "worst": [{"id": name, "value": value} for name, value in self.worst],
        }


@dataclass(frozen=True, slots=True)
class Checks:
    """What the checks of a folder say.

    Attributes:
        measures: one for each column.
        rejected: id -> what rejected it.
        problem: why they could not be read, a sentence; None if they could, or there are none.
    """

    measures: tuple[Measure, ...] = ()
    rejected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problem: str | None = None

    @property
    def reasons(self) -> dict[str, int]:
        """Check -> how many images it rejected, the most common first."""
        return dict(Counter(reason for of in self.rejected.values() for reason in of).most_common())

    def as_json(self) -> dict[str, Any]:
        """What `report.json` says of them."""
        measures = [measure.as_json() for measure in self.measures]
        return {"rejected": self.reasons, "measures": measures, "problem": self.problem}


def read_checks(out: str | Path, made: frozenset[str]) -> Checks:
    """Read the checks of a folder; none if nothing was checked.

    Args:
        out: the folder, or its URL.
        made: ids of the images in it; what is said of others is out of date.
    """
    backend = open_backend(out)
    try:
        tables = list(checks_tables(backend))
    except (OSError, pa.ArrowException) as error:
        return Checks(problem=f"{backend.location(FOLDER)}: cannot be read ({error}): run `wanbatch check` again")
    tables = [table.replace_schema_metadata(None) for table in tables if "id" in table.column_names]
    if not tables:
        return Checks()
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        problem = f"{backend.location(FOLDER)}: has parts that differ ({error}): run `wanbatch check` again"
        return Checks(problem=problem)
    table = table.filter(pc.is_in(table["id"], pa.array(sorted(made), pa.string())))
    rejected = _rejections(table)
    columns = [name for name in table.column_names if name not in WRITTEN and name != REJECTED_BY]
    measures = (_measure(table, column, rejected) for column in columns)
    return Checks(tuple(measure for measure in measures if measure is not None), rejected)


def _rejections(table: pa.Table) -> dict[str, tuple[str, ...]]:
    if REJECTED_BY not in table.column_names:
        return {}
    pairs = zip(table["id"].to_pylist(), table[REJECTED_BY].to_pylist(), strict=True)
    return {name: tuple(reasons) for name, reasons in pairs if reasons}


def _measure(table: pa.Table, column: str, rejected: dict[str, tuple[str, ...]]) -> Measure | None:
    """The measure that a column holds; None if it holds neither numbers nor yes and no."""
    kind = table.schema.field(column).type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    there = table.filter(pc.is_valid(table[column]))
    values = np.asarray(there[column].to_pylist(), dtype=np.float64)
    names = there["id"].to_pylist()
    finite = np.isfinite(values)
    if not len(there):
        return None
    reasons, known = KNOWN.get(column, ((column,), ""))
    bad = np.array([bool({column, *reasons} & {*rejected.get(name, ())}) for name in names], dtype=bool)
    order = known or _inferred_order(values, bad, pa.types.is_boolean(kind))
    worst = _worst_first(values, bad, order)
    figures = (
        [round(float(of(values[finite])), 6) for of in (np.min, np.mean, np.max)] if finite.any() else [None] * 3
    )
    if pa.types.is_boolean(kind):  # of yes and no there is nothing to see but what was rejected
        worst = worst[: bad.sum()]
    chosen = tuple((names[index], float(values[index])) for index in worst[:WORST] if finite[index])
    said = f"rejected ones first, then {order}" if bad.any() else order
    return Measure(column, len(names), int(bad.sum()), said, chosen, *figures)


def _inferred_order(values: np.ndarray, bad: np.ndarray, yes_or_no: bool) -> str:
    """Which end of a measure is the bad one, by what was rejected; without any the low values come first."""
    if bad.any() and not bad.all():
        return HIGH if float(np.nanmedian(values[bad])) >= float(np.nanmedian(values[~bad])) else LOW
    return HIGH if yes_or_no and bad.any() else LOW


def _worst_first(values: np.ndarray, bad: np.ndarray, order: str) -> np.ndarray:
    """Indices: rejected images first, then by an order."""
    middle = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
    signed = {LOW: values, HIGH: -values, APART: -np.abs(values - middle)}[order]
    return np.lexsort((np.nan_to_num(signed, nan=np.inf), ~bad))
