"""Run by test_changed_columns.py: the columns of a folder change while it is killed before every file operation.

    python killed_column_change.py FOLDER STEP

Like killed_run.py, after an undisturbed run whose manifest had other columns. One JSON line for each kill.
"""

import json
import shutil
import signal
import sys
from pathlib import Path

import pandas  # noqa: F401  pyarrow imports it on first use: once here, not in every fork
import pyarrow as pa
import pyarrow.parquet as pq
from killed_run import forked, killed_before
from manifest_making import unit_of
from output_folders import tree, visible

from wanbatch.manifests.dataset import part_schemas
from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.schema_changes import cast

part_schemas.TOGETHER = 2  # three parts then take two commits

OLD = pa.table({"score": [1], "note": pa.nulls(1)})
NEW = pa.table({"tag": ["x"], "note": ["ok"], "score": [2.5]})


def before(out: Path) -> None:
    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}))
        for unit, name in enumerate("abc"):
            folder.publish(write_attempt(out, attempt="t", **unit_of(unit, [name], passthrough=OLD)))
        folder.settle_card()


def grown(out: Path, token: str) -> None:
    with OutputFolder.open(out, {}) as folder:
        schema = folder.common_columns(NEW.schema)
        folder.change_columns(schema)
        if "d" not in folder.committed().made:
            own = pa.schema([field for field in schema if field.name in NEW.column_names])
            unit = unit_of(folder.committed().next_unit, ["d"], passthrough=cast(NEW, own))
            folder.publish(write_attempt(out, attempt=token, **unit))


def dying(out: Path, at: int) -> None:
    killed_before(out, at)
    grown(out, "first")


def look(out: Path) -> None:
    """What a killed process left, what the next one finds, and what it leaves."""
    killed = {"ids": visible(out)[0], "columns": columns(out)}
    with OutputFolder.open(out, {}) as folder:
        found = sorted(folder.committed().made)
    found_ids = visible(out)[0]
    grown(out, "second")
    rows = sorted((row for part in parts(out) for row in pq.read_table(part).to_pylist()), key=lambda row: row["id"])
    own = [[row[name] for name in ("id", "score", "note", "tag")] for row in rows]
    files = [name for name in tree(out) if not name.startswith("_wanbatch/commits/")]
    print(json.dumps([killed, found, found_ids, own, columns(out), files]))


def parts(out: Path) -> list[Path]:
    return sorted((out / "data").glob("part-*.parquet"))


def columns(out: Path) -> list[str]:
    """The distinct columns of the parts, each as text."""
    own = (list(pq.read_schema(part))[-3:] for part in parts(out))
    return sorted({", ".join(f"{field.name} {field.type}" for field in one) for one in own})


def main(folder: Path, step: int) -> None:
    forked(before, folder / "before")
    at, killed = 1, True
    while killed:
        out = folder / f"run{at}" / "out"
        shutil.copytree(folder / "before", out)
        killed = forked(dying, out, at) == -signal.SIGKILL
        if forked(look, out) != 0:
            sys.exit(f"the run after kill {at} failed")
        at += step


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
