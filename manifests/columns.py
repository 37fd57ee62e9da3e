"""What follows from the table of columns (`column_table.py`).

The checks of manifest rows, the Arrow schemas, `Row` and `Record`, the fields and flags of the settings, the digest
of a row, the fingerprint of a run, the dataset card and the table of the documentation are derived from it.
"""

from __future__ import annotations

from wanbatch.manifests.column_table import COLUMNS
from wanbatch.manifests.column_types import FIRST_VERSION

GIVEN = {column.name: column.given for column in COLUMNS if column.given is not None}
"""What manifest rows may give, by name."""

SETTINGS = tuple(name for name, given in GIVEN.items() if given.role == "setting")
"""Columns that a row keeps as they are given, and on which the members of a blend group must agree."""

RUN_SETTINGS = tuple(name for name, given in GIVEN.items() if given.run is not None)
"""Columns that the run may set for rows that do not."""

SET_LATER = frozenset(name for name in RUN_SETTINGS if GIVEN[name].run_since > FIRST_VERSION)
"""Of these, those that release 0.1.0 did not let a run set."""

WRITTEN = {column.name: column.written for column in COLUMNS if column.written is not None}
"""The columns of `data/`, before the passthrough columns, and their types."""

RESOLVED = tuple(name for name in SETTINGS if name in WRITTEN)
"""Settings of a row that are decided before an image is made, and recorded with it."""

PIXELS = frozenset(column.name for column in COLUMNS if column.pixels)
"""Columns that decide pixels."""

LATER = tuple(column.name for column in COLUMNS if column.since > FIRST_VERSION and column.written is not None)
"""Columns of `data/` that release 0.1.0 did not have; what rows may give is there where a row or the run uses it."""

RARE = tuple(column.name for column in COLUMNS if column.rare)
"""Columns of `data/` that are there only if an image has a value."""

FEATURES = {"image": {"_type": "Image"}, "audio": {"_type": "Audio"}}
"""What the library `datasets` is told of columns of `data/`."""

ALWAYS = tuple(name for name in LATER if name not in GIVEN and name not in RARE)
"""Of these, those that a run writes whatever it is asked; only folders that were begun before they came lack them."""

MAPS = ("creativity_boxes", "creativity_map")
"""Columns that give places of a picture a creativity of their own."""

MEANINGS = {column.name: column.meaning for column in COLUMNS}


def markdown_table() -> str:
    """The columns that a manifest may give, as the documentation shows them."""
    lines = ["| column | takes | meaning | default |", "|---|---|---|---|"]
    for name, given in GIVEN.items():
        lines.append(f"| `{name}` | {given.kind.rule} | {MEANINGS[name]} | {given.default} |")
    return "\n".join(lines)
