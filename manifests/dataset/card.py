"""The dataset card: the README.md of an output folder.

Its front matter tells `datasets.load_dataset` and dataset viewers where the images are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.errors import MachineryError
from wanbatch.manifests.columns import MEANINGS, WRITTEN
from wanbatch.manifests.storage.local import backend_for


def write_card(
    root: str | Path,
    model: str,
    revision: str | None,
    settings: Mapping[str, object],
    counts: Mapping[str, Any],
    passthrough: pa.Schema | None = None,
) -> None:
    """Write or replace the card of an output folder.

    Args:
        settings: what else was chosen for the run; shown as a table.
        counts: `done`, `quarantined` and `failures` (error class -> count), as `status` gives them.
        passthrough: the columns that came with the manifest.
    Raises:
        MachineryError: if the disk or the store refuses.
    """
    place = backend_for(root)
    title = place.root.rpartition("/")[2]
    text = "\n".join(
        [
            *_front_matter(title),
            f"# {_inline(title)}",
            "",
            f"{counts['done']} images, made from a manifest by wanbatch with {_code(model)}"
            + (f" at revision {_code(revision)}." if revision else "."),
            *_quarantined(counts),
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            'images = load_dataset("path/to/this/folder", split="train")',
            "```",
            "",
            "`data/` holds one row an image; `timings/` how each was made and `failures/` the rows that could "
            "not be made. All three join on `id`.",
            "",
            "## Settings",
            "",
            *_table("setting", "value", [(name, _code(value)) for name, value in settings.items()]),
            "",
            "## Columns",
            "",
            *_table("column", "meaning", [(name, MEANINGS[name]) for name in WRITTEN] + _carried(passthrough)),
            "",
        ]
    )
    try:
        place.write_atomic("README.md", text.encode(errors="replace"))
    except OSError as error:
        raise MachineryError(f"{place.root}: cannot be written to ({error.strerror or error})") from error


def _front_matter(name: str) -> list[str]:
    """YAML. Strings are written as JSON, which YAML reads as it is."""
    return [
        "---",
        f"pretty_name: {json.dumps(name)}",
        "tags:",
        "- synthetic",
        "- wanbatch",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/*.parquet",
        "---",
        "",
    ]


def _quarantined(counts: Mapping[str, Any]) -> list[str]:
    if not counts["quarantined"]:
        return []
    classes = ", ".join(f"{count} {_inline(name)}" for name, count in counts["failures"].items())
    return [f"{counts['quarantined']} rows could not be made ({classes})."]


def _carried(passthrough: pa.Schema | None) -> list[tuple[str, str]]:
    if passthrough is None:
        return []
    return [(field.name, f"from the manifest ({_code(field.type)})") for field in passthrough]


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {_code(name)} | {text} |" for name, text in rows)]


def _code(value: object) -> str:
    text = _inline("" if value is None else str(value)).replace("`", "'")
    return f"`{text}`" if text else ""


def _inline(text: str) -> str:
    """Text that cannot break a table or a heading."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
