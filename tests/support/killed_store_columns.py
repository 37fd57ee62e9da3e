"""Run by test_object_store.py: the columns of a folder in a store change while it is killed before its requests.

    python killed_store_columns.py s3://bucket/folder STEP

Like killed_column_change.py. Kills before writing requests STEP / 2, 3 / 2 STEP, ..., as long as there are so many;
one JSON line for each.
"""

import json
import signal
import sys

import pandas  # noqa: F401  pyarrow imports it on first use: once here, not in every fork
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs  # noqa: F401  as well
from killed_run import forked
from killed_store_run import copied, killed_before, visible
from manifest_making import unit_of

from wanbatch.manifests.dataset import part_schemas
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.storage.object_store import ObjectStoreBackend

part_schemas.TOGETHER = 2  # three parts then take two commits

OLD = pa.table({"score": [1], "note": pa.nulls(1)})
NEW = pa.schema([("tag", pa.string()), ("score", pa.float64()), ("note", pa.string())])


def before(out: str) -> None:
    with OutputFolder.open(out, {}) as folder:
        attempts = [
            write_attempt(out, attempt="t", **unit_of(n, [name], passthrough=OLD)) for n, name in enumerate("abc")
        ]
        folder.publish_many(attempts)


def change(out: str) -> None:
    with OutputFolder.open(out, {}) as folder:
        folder.change_columns(folder.common_columns(NEW))


def dying(filled: str, out: str, at: int) -> None:
    copied(filled, out)
    killed_before(at)
    change(out)


def look(out: str) -> None:
    """What a killed process left, and what the next one makes of it."""
    killed = visible(out)["data_ids"]
    change(out)
    seen = visible(out)
    backend = ObjectStoreBackend(out)
    schemas = set()
    for name in backend.sizes("data"):
        with backend.open(name) as file:
            schemas.add(", ".join(f"{field.name} {field.type}" for field in list(pq.read_schema(file))[-3:]))
    left = [*seen["tmp"], *backend.sizes("_wanbatch/orphans")]
    marked = backend.exists(part_schemas.CHANGING)
    print(json.dumps([killed, seen["data_ids"], sorted(schemas), left, marked]))


def main(folder: str, step: int) -> None:
    at, filled = max(1, step // 2), f"{folder}/before"
    if forked(before, filled) != 0:
        sys.exit("the run before the kills failed")
    while forked(dying, filled, out := f"{folder}/run{at}", at) == -signal.SIGKILL:
        if forked(look, out) != 0:
            sys.exit(f"the run after kill {at} failed")
        at += step


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
