"""The dataset card: the README.md of an output folder.

Its front matter tells `datasets.load_dataset` and dataset viewers where the images are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCard, DatasetCardData

from wanbatch.errors import MachineryError
from wanbatch.manifests.columns import MEANINGS, WRITTEN
from wanbatch.manifests.storage.backend import open_backend

_LOADING = """```python
from datasets import load_dataset

images = load_dataset("path/to/this/folder", split="train")
```

`data/` holds one row an image; `timings/` how each was made and `failures/` the rows that could not be made. \
All three join on `id`.
"""


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
        root: the output folder, a path or a URL.
        model, revision: what made the images.
        settings: what else was chosen for the run; shown as a table.
        counts: `done`, `quarantined` and `failures` (error class -> count), as `status` gives them.
        passthrough: the columns that came with the manifest.
    Raises:
        MachineryError: if the disk or the store refuses.
    """
    backend = open_backend(root)
    title = _storable(backend.root.rpartition("/")[2])
    lines = [
        f"# {_inline(title)}",
        "",
        _summary(model, revision, counts),
        "",
        _LOADING,
        "## Settings",
        "",
        *_table("setting", "value", [(name, _code(value)) for name, value in settings.items()]),
        "",
        "## Columns",
        "",
        *_table(
            "column", "meaning", [*((name, MEANINGS[name]) for name in WRITTEN), *_passthrough_rows(passthrough)]
        ),
        "",
    ]
    body = _storable("\n".join(lines))
    card = DatasetCard(f"---\n{_front_matter(title).to_yaml()}\n---\n\n{body}")  # raises if it is not YAML
    try:
        backend.write_atomic("README.md", str(card).encode())
    except OSError as error:
        raise MachineryError(f"{backend.root}: cannot be written to ({error.strerror or error})") from error


def _front_matter(title: str) -> DatasetCardData:
    """What `load_dataset` and the Hub read: where the images are, and what the dataset is called."""
    return DatasetCardData(
        pretty_name=title,
        tags=["synthetic", "wanbatch"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    )


def _summary(model: str, revision: str | None, counts: Mapping[str, Any]) -> str:
    at_revision = f" at revision {_code(revision)}" if revision else ""
    text = f"{counts['done']} images, made from a manifest by wanbatch with {_code(model)}{at_revision}."
    if counts["quarantined"]:
        classes = ", ".join(f"{count} {_inline(name)}" for name, count in counts["failures"].items())
        text += f"\n{counts['quarantined']} rows could not be made ({classes})."
    return text


def _storable(text: str) -> str:
    """Text without what UTF-8 cannot hold (file names that are no Unicode have it)."""
    return text.encode(errors="replace").decode()


def _passthrough_rows(passthrough: pa.Schema | None) -> list[tuple[str, str]]:
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
