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
from wanbatch.manifests.storage.local import backend_for

_COLUMNS = {
    "id": "the name that the manifest gave, or its row number; `-0`, `-1`, … for several images of one row",
    "image": "the picture; the ending of its `path` tells the format",
    "prompt": "what was asked for",
    "negative_prompt": "what was to be avoided",
    "sources": "the source images: path, share in the blend, SHA-256 of the file",
    "creativity": "the noise level at which denoising started: 0 keeps the source, 1 is the prompt alone",
    "seed": "the seed of the noise",
    "variant": "which image of its manifest row, from 0",
    "width": "pixels",
    "height": "pixels",
    "steps": "denoising steps of the whole schedule",
    "guidance": "classifier-free guidance scale",
    "shift": "time shift of the noise schedule; none with explicit sigmas",
    "sampler": "the solver",
    "schedule": "how the noise levels are spaced; none with explicit sigmas",
    "sigmas": "explicit noise levels, the final 0 left out",
    "step_cache": "which blocks of the model were skipped at which step, and what stood in for them",
    "model": "the model",
    "revision": "its revision",
    "sha256": "SHA-256 of the pixels as they were made (RGB, row by row, 8 bits); JPEG and lossy WEBP files decode "
    "to slightly other ones",
    "manifest_row": "the row of the manifest, from 0",
}


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
            *_table("column", "meaning", list(_COLUMNS.items()) + _carried(passthrough)),
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
