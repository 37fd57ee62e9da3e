"""Foresees the runs of a result of `estimates.py` once more, with the estimates of today, and writes that into it.

    python benchmarks/foresee_again.py [benchmarks/results/estimates-h200.json]

Nothing is made, and no GPU is needed: rows, slots and measured seconds are those of the result, and seconds of a
step are those of the committed table. The runs of that result were made by a version whose units drained the slots at
their ends; they are foreseen as such, and as runs are made now, which nobody has measured. `like the first run` has
the table's seconds, scaled to what the first run took.

`tests/jobs/planning/test_estimates.py` fails when the file no longer has what this script derives.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
from estimate_rows import mixed, plain, written

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.estimates import estimate
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.rates import rates_of_gpu
from wanbatch.jobs.planning.slot_turns import MAX_IN_MODEL, ONE_BY_ONE

RESULT = Path(__file__).parent / "results" / "estimates-h200.json"
DOZENS, SLOTS = 4, 8
"""Of the runs of that result, which its command names, and what `--slots auto` finds on an H200."""

DEFAULTS: dict[str, Any] = {"width": 1280, "height": 704, "steps": 50, "guidance": 5.0, "shift": 5.0}
"""Of TI2V-5B, for rows that say nothing else."""

WAYS = {"units that drain the slots, as these runs were made": ONE_BY_ONE, "slots that stay full": MAX_IN_MODEL}
KEY = "foreseen_again"


def derived(result: dict[str, Any]) -> dict[str, Any]:
    """What is foreseen of the runs of a result, without making them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"first": plain(DOZENS, "random-5b"), "second": mixed(DOZENS, "random-5b", folder)}
        foreseen = {run: _seconds(written(folder, run, its)) for run, its in rows.items()}
    ways = {}
    for way in WAYS:
        table = foreseen["second"][way]
        like = table * result["first_run"]["make"] / foreseen["first"][way]
        both = {"table, h200": table, "like the first run": like}
        ways[way] = {name: {"device_seconds": round(seconds, 2)} for name, seconds in both.items()}
    measured = result["second_run"]["make"]
    for found in ways[next(iter(WAYS))].values():
        found["ratio"] = round(measured / found["device_seconds"], 4)
    what = "computed later without a GPU, by `python benchmarks/foresee_again.py`"
    return {"what": what, "slots": SLOTS, "ways": ways}


def _seconds(manifest: Path) -> dict[str, float]:
    """Middle of what is foreseen by the table, in each of the ways."""
    settings = Settings(model="tiny", slots=SLOTS, workers=1, **DEFAULTS)
    plan, _ = prepare(manifest, settings, weights=False, every_source=True)
    rates, found = rates_of_gpu("h200", "bf16"), {}
    for way, in_model in WAYS.items():
        seconds = estimate(plan, rates, settings, in_model=in_model).seconds
        assert seconds is not None
        found[way] = seconds.middle
    return found


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path, exists=True), default=RESULT)
def main(file: Path) -> None:
    result = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**result, KEY: derived(result)}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
