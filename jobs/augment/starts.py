"""Whether the rows of a recipe's manifest can start where they say, by the rule of every run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.noise_schedule import REPLACED, resolved_schedules, too_low
from wanbatch.manifests.reading.arrow_rows import ROWS_SCHEMA, UNMERGED_SCHEMA, TableBuilder, row_values
from wanbatch.manifests.reading.row_model import parse_row
from wanbatch.pipeline.loading.registry import TINY, find

COLUMNS = ("creativity", "creativity_boxes", "creativity_steps", "sigmas", *REPLACED)
"""What decides where a row starts, and the last level of its schedule."""


def rows_too_low(rows: Sequence[Mapping[str, Any]], settings: Settings) -> str | None:
    """Say how many rows start below the last level of their own steps, and what to write in the recipe.

    Args:
        rows: of the manifest, as `manifest_row` makes them.
        settings: of the run. Only a model on this machine is looked at: what is elsewhere is left to the run.

    Returns:
        One message for all rows; None if each can start.

    Raises:
        UserError: The folder of the model holds none.
    """
    if settings.model != TINY and not Path(settings.model).is_dir():
        return None
    kinds = Counter(json.dumps({name: row[name] for name in COLUMNS if name in row}) for row in rows)
    builder = TableBuilder(UNMERGED_SCHEMA)
    for number, kind in enumerate(kinds):
        row, wrong = parse_row({"prompt": "", "image": "source.png", **json.loads(kind)})
        if row is None:
            raise ValueError(f"the recipe made a row that no manifest may have: {wrong[0]}")
        builder.add(row_values(row, number, 0, number))
    table = builder.table().select(ROWS_SCHEMA.names)
    model = find(settings.model, settings.revision, weights=False)
    found = list(too_low(pa.table(resolved_schedules(table, model, settings))))
    if not found:
        return None
    counts = list(kinds.values())
    which = f"{sum(counts[index] for index, _ in found)} of {number_of(len(rows), 'rows')} cannot be made"
    return f"{which}: {found[0][1]}; in the recipe, creativity_steps and steps go under [settings]"
