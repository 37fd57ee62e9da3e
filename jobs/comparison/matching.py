"""Which images of two folders are compared, and in what their requests differ. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from wanbatch.manifests.adapter_words import adapter_words, recorded_adapters
from wanbatch.manifests.columns import PIXELS, WRITTEN

REQUEST = tuple(name for name in WRITTEN if name in PIXELS and name != "id")
"""Columns that say what was asked for."""

HOW = ("step_cache", "model", "revision")
"""Columns that say how it was made."""

ADAPTERS = "adapters"
"""The column of files and weights of adapters. Those that rows name are compared; merged ones are settings."""

COLUMNS = ("id", "manifest_row", "sha256", "sources", ADAPTERS, *REQUEST, *HOW)
OF_ADAPTERS = (ADAPTERS, "style", "loras")
CHANGES_SHOWN, IDS_SHOWN = 5, 10


@dataclass(frozen=True, slots=True)
class Pair:
    """One id in both folders.

    Attributes:
        id: of the image.
        first, second: its row in the table of each folder.
        same_pixels: the pictures were the same when they were made.
        differs: columns in which its requests differ.
    """

    id: str
    first: int
    second: int
    same_pixels: bool
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matched:
    """What two folders have in common.

    Attributes:
        pairs: ids in both, in the order of the first folder's manifest.
        only_first, only_second: ids in one alone, in the order of its manifest.
    """

    pairs: Sequence[Pair]
    only_first: Sequence[str]
    only_second: Sequence[str]


def match(first: pa.Table, second: pa.Table) -> Matched:
    """Match the images of two folders by their ids.

    Args:
        first, second: `COLUMNS` of both, as far as they have them.
    """
    rows = {name: index for index, name in enumerate(second["id"].to_pylist())}
    names = first["id"].to_pylist()
    order = np.argsort(first["manifest_row"].to_numpy(), kind="stable").tolist()
    left = [index for index in order if names[index] in rows]
    right = [rows[names[index]] for index in left]
    ones, others = first.take(pa.array(left, pa.int64())), second.take(pa.array(right, pa.int64()))
    columns = {name: _differences(name, ones, others) for name in (*REQUEST, *HOW, "sources", ADAPTERS)}
    same = (~_differences("sha256", ones, others)).tolist()
    pairs = [
        Pair(names[one], one, other, same[at], tuple(name for name, differs in columns.items() if differs[at]))
        for at, (one, other) in enumerate(zip(left, right, strict=True))
    ]
    known = set(names)
    ordered = second.sort_by("manifest_row")["id"].to_pylist()
    alone = [names[index] for index in order if names[index] not in rows]
    return Matched(pairs, alone, [name for name in ordered if name not in known])


def _differences(name: str, first: pa.Table, second: pa.Table) -> np.ndarray:
    """Whether a column differs, bool [rows]; one that a folder lacks does not."""
    if name != ADAPTERS and (name not in first.column_names or name not in second.column_names):
        return np.zeros(len(first), dtype=bool)
    pairs = zip(_values(name, first), _values(name, second), strict=True)
    differ = (one != other and not (name == ADAPTERS and None in (one, other)) for one, other in pairs)
    return np.fromiter(differ, dtype=bool, count=len(first))


def _values(name: str, table: pa.Table) -> list[Any]:
    if name == ADAPTERS:
        return [row_adapters(row) for row in table.select(_there(OF_ADAPTERS, table)).to_pylist()]
    values = table[name].to_pylist()
    if name != "sources":
        return values
    return [[(source["sha256"], source["weight"]) for source in of or ()] for of in values]


def row_adapters(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The adapters that a row names, with files and weights, in words; none are merged ones. None: it does not say.

    row: `OF_ADAPTERS`, as far as the folder has them.
    """
    told = recorded_adapters(row)
    if told is None and (row.get("style") is not None or row.get("loras")):
        return None  # made by a version that did not record them
    return tuple(adapter_words(one) for one in told or () if not one["merged"])


def unknown_adapters(matched: Matched, first: pa.Table, second: pa.Table) -> list[int]:
    """Of how many common ids each folder names adapters without saying which files and weights they were."""
    ones, others = _values(ADAPTERS, first), _values(ADAPTERS, second)
    pairs = matched.pairs
    return [sum(ones[pair.first] is None for pair in pairs), sum(others[pair.second] is None for pair in pairs)]


def change_in_words(name: str, old: Any, new: Any) -> tuple[str, str]:
    """From what to what the values of a column changed; of adapters, those alone that are not in both."""
    if name != ADAPTERS:
        return str(old), str(new)
    gone, come = ([one for one in of if one not in beside] for of, beside in ((old, new), (new, old)))
    if not gone and not come:  # the same in another order
        gone, come = old, new
    return "; ".join(gone) or "none", "; ".join(come) or "none"


def _there(names: Sequence[str], table: pa.Table) -> list[str]:
    return [name for name in names if name in table.column_names]


def request_differences(matched: Matched, first: pa.Table, second: pa.Table) -> list[dict[str, Any]]:
    """In which columns the requests of common ids differ: how many, from what to what, and the first ids."""
    found = []
    for name in (*REQUEST, *HOW, "sources", ADAPTERS):
        differing = [pair for pair in matched.pairs if name in pair.differs]
        if not differing:
            continue
        ones, others = _values(name, first), _values(name, second)
        changes = Counter(change_in_words(name, ones[pair.first], others[pair.second]) for pair in differing)
        common = changes.most_common(CHANGES_SHOWN)
        found.append(
            {
                "column": name,
                "images": len(differing),
                "kinds": len(changes),
                "changes": [{"from": old, "to": new, "images": count} for (old, new), count in common],
                "ids": [pair.id for pair in differing[:IDS_SHOWN]],
            }
        )
    return found


def chosen(pairs: Sequence[Pair], limit: int | None) -> list[Pair]:
    """At most so many of the pairs, evenly spread over all of them; None: all."""
    if limit is None or len(pairs) <= limit:
        return list(pairs)
    return [pairs[index * len(pairs) // limit] for index in range(limit)]


def distribution(values: Sequence[float], bins: int = 24) -> list[dict[str, float]]:
    """How often values of each size come: ranges of equal width with their counts."""
    if not values:
        return []
    counts, edges = np.histogram(values, bins=bins)
    return [
        {"from": float(low), "to": float(high), "images": int(count)}
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def figures(values: Sequence[float]) -> Mapping[str, float]:
    """Mean, median, the fifth and the ninety-fifth percentile, the least and the most."""
    low, middle, high = np.percentile(values, (5, 50, 95))
    named = {"mean": np.mean(values), "median": middle, "p5": low, "p95": high}
    return {
        name: round(float(value), 5) for name, value in {**named, "least": min(values), "most": max(values)}.items()
    }
