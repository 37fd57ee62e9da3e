"""The first images of a plan with everything decided, as values and as a table. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from wanbatch.jobs.planning.plan import Plan

SHOWN = 10
CUT = {"id": 24, "prompt": 48}
COLUMNS = ("id", "size", "creativity", "steps", "evaluations", "guidance", "sampler", "schedule", "seed", "prompt")


def first_rows(plan: Plan, count: int = SHOWN) -> list[dict[str, Any]]:
    """The first images of a plan, in its order; `source_images` has the names of their sources."""
    rows = plan.images.slice(0, count).to_pylist()
    sources = plan.manifest.sources(plan.images["row"].slice(0, count))
    hidden = ("row", "digest", "source_area")
    return [
        {
            **{name: value for name, value in row.items() if name not in hidden},
            "source_images": [source.name for source in its],
        }
        for row, its in zip(rows, sources, strict=True)
    ]


def table_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table of some of their columns; those that no row has are left out, long texts are cut."""
    cells = [_cells(row) for row in rows]
    columns = [name for name in (*COLUMNS[:2], "sources", *COLUMNS[2:]) if any(row[name] for row in cells)]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in columns}
    for row in ({name: name for name in columns}, *cells):
        yield "  ".join(row[name].ljust(widths[name]) for name in columns).rstrip()


def _cells(row: dict[str, Any]) -> dict[str, str]:
    values = {**row, "size": f"{row['width']}x{row['height']}", "sources": len(row["source_images"]) or None}
    return {name: _cell(name, values.get(name)) for name in (*COLUMNS, "sources")}


def _cell(name: str, value: Any) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
    limit = CUT.get(name, 24)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
