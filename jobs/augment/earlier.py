"""The manifest that an earlier call of the same recipe wrote: its rows stay, whatever the dataset is now.

A run goes on only with a manifest that asks for all that it has made. So rows are added to a manifest and never taken
out of it, not even if their class has more pictures by now, or their source is gone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.errors import UserError
from wanbatch.jobs.augment.drawing import Pool, Taken
from wanbatch.jobs.augment.leakage import Leak
from wanbatch.jobs.augment.originals import Original

Rows = Sequence[Mapping[str, Any]]


def earlier_rows(manifest: Path) -> Rows:
    """The rows of a manifest that a recipe wrote; none if there is no such file.

    Raises:
        UserError: There is a file of this name that no recipe wrote, or it cannot be read.
    """
    try:
        manifest.stat()
    except FileNotFoundError:
        return []
    except OSError as error:  # not the same as none: its rows would be lost
        raise _unreadable(manifest, error) from error
    return read_rows(manifest, "is there already, and no recipe wrote it: give another name with --out, or remove it")


def of_recipe(rows: Rows, recipe_digest: str) -> Rows:
    """The rows of a manifest, if this recipe wrote it; else none."""
    return rows if {row["recipe_digest"] for row in rows} == {recipe_digest} else []


def read_rows(manifest: Path, otherwise: str) -> Rows:
    """The rows of a manifest that a recipe wrote. Raises UserError if none did, or it cannot be read.

    otherwise: what to say of a manifest that no recipe wrote.
    """
    try:
        data = manifest.read_bytes()
    except OSError as error:
        raise _unreadable(manifest, error) from error
    try:
        rows = _parquet(data) if manifest.suffix.lower() == ".parquet" else _jsonl(data)
        for row in rows:
            pool_of(row), key_of(row), row["recipe_digest"], row["seed"] + row["regeneration"]
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise UserError(f"{manifest}: {otherwise}") from error
    return rows


def _unreadable(manifest: Path, error: OSError) -> UserError:
    return UserError(f"{manifest}: cannot be read ({error.strerror or error})")


def _jsonl(data: bytes) -> Rows:
    lines = data.decode(errors="surrogatepass").split("\n")  # `splitlines` also cuts at U+2028, which JSON keeps
    return [json.loads(line) for line in lines if line.strip()]


def _parquet(data: bytes) -> Rows:
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def pool_of(row: Mapping[str, Any]) -> Pool:
    """The split and the class of a row."""
    return row.get("split"), row.get("label")


def key_of(row: Mapping[str, Any]) -> tuple[str, int]:
    """The digest of a row's first parent, and which row of it this one is."""
    return row["source_sha256"], int(row["id"].rpartition("-")[2])


def taken_by(rows: Rows) -> Taken:
    """What `draw` is told of rows that there are already."""
    taken: defaultdict[Pool, set[tuple[str, int]]] = defaultdict(set)
    for row in rows:
        taken[pool_of(row)].add(key_of(row))
    return taken


def of_this_dataset(rows: Rows, digests: Collection[str]) -> Rows:
    """The rows, if any of them was made from a picture of a dataset; else none, as they are of another one.

    Args:
        rows: that there are already.
        digests: of the pictures of the dataset.
    """
    known = set(digests)
    return rows if any(parent["sha256"] in known for row in rows for parent in row["parents"]) else []


def warnings_about(rows: Rows, digests: Collection[str]) -> list[str]:
    """What to say of rows whose pictures a dataset has no more, a sentence each. digests: of its pictures."""
    known = set(digests)
    gone = [parent["id"] for row in rows for parent in row["parents"][:1] if parent["sha256"] not in known]
    if not gone:
        return []
    stay = "1 row stays whose picture" if len(gone) == 1 else f"{len(gone)} rows stay whose pictures"
    return [f"{stay} the dataset has no more, {gone[0]} for one"]


def require_none_held_out(manifest: Path, rows: Rows, leaks: Sequence[Leak], held_out: Collection[Original]) -> None:
    """Refuse to go on with rows whose parents are held out by now, or look like a picture that is.

    Raises:
        UserError: There is such a row.
    """
    names = {original.sha256: f"{original.name} of split {original.split}" for original in held_out}
    names |= {leak.original.sha256: str(leak) for leak in leaks}
    for row in rows:
        for parent in row["parents"]:
            if parent["sha256"] in names:
                raise UserError(
                    f"{manifest}: row {row['id']} was made from a picture that is held out by now "
                    f"({names[parent['sha256']]}): begin anew with another --out"
                )
