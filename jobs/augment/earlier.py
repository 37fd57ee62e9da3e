"""The manifest that an earlier call of the same recipe wrote: its rows stay, whatever the dataset is now.

A run goes on only with a manifest that asks for all that it has made. So rows are added to a manifest and never taken
out of it, not even if their class has more pictures by now, or their source is gone; unless the user says that what
the dataset has no more is to leave (`--drop-removed`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from wanbatch.counting import number_of
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
    return read_rows(manifest, "is there already, and no recipe wrote it: give another name with --out")


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


def parents_of(rows: Rows) -> set[str]:
    """The digests of all parents of rows."""
    return {parent["sha256"] for row in rows for parent in row["parents"]}


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
    gone = [next((one["id"] for one in row["parents"] if one["sha256"] not in known), None) for row in rows]
    names = [name for name in gone if name is not None]
    if not names:
        return []
    stay = number_of(len(names), "rows", "stays", "stay")
    return [f"{stay} with pictures that the dataset has no more, {names[0]} for one: --drop-removed takes them out"]


class Sorted(NamedTuple):
    """The rows that a manifest had before: those that stay, those that leave, those that others take the place of."""

    stay: Rows
    leaving: Rows
    replaced: Rows


def sort_earlier(
    rows: Rows,
    recipe_digest: str,
    originals: Collection[Original],
    leaks: Sequence[Leak],
    held_out: Collection[Original],
    drop_removed: bool,
) -> Sorted:
    """What becomes of the rows that a manifest had before.

    Args:
        rows: all of them.
        recipe_digest: of the recipe of now.
        originals: of the splits and classes that are augmented.
        leaks: those of them that look like one that is held out.
        held_out: pictures of other splits.
        drop_removed: rows leave that have a parent which is none of the originals of their class and split, or held
            out.
    """
    its = of_this_dataset(of_recipe(rows, recipe_digest), [one.sha256 for one in (*originals, *held_out)])
    if not its:
        return Sorted([], [], rows)
    apart = {one.sha256 for one in held_out} | {leak.original.sha256 for leak in leaks}
    there = {(one.sha256, (one.split, one.label)) for one in originals if one.sha256 not in apart}
    stay, leaving = list[Mapping[str, Any]](), list[Mapping[str, Any]]()
    for row in its:
        stays = not drop_removed or all((parent["sha256"], pool_of(row)) in there for parent in row["parents"])
        (stay if stays else leaving).append(row)
    return Sorted(stay, leaving, [])


def require_none_held_out(manifest: Path, rows: Rows, leaks: Sequence[Leak], held_out: Collection[Original]) -> None:
    """Refuse to go on with rows whose parents are held out by now, or look like a picture that is.

    Raises:
        UserError: There are such rows; the message names all of them.
    """
    names = {original.sha256: f"{original.name} of split {original.split}" for original in held_out}
    names |= {leak.original.sha256: str(leak) for leak in leaks}
    if found := _by_picture(rows, lambda row, sha256: names.get(sha256)):
        raise UserError(f"{manifest}: {_made_from(found)} held out by now: {_listed(found)}: {_WAYS_ON}")


def require_none_moved(manifest: Path, rows: Rows, originals: Collection[Original]) -> None:
    """Refuse to go on with rows whose parents are in another class or split by now.

    Args:
        manifest: that has the rows.
        rows: that there are already.
        originals: all pictures of the splits that are augmented, those of other classes, too.
    Raises:
        UserError: There are such rows; the message names all of them.
    """
    where: defaultdict[str, dict[Pool, Original]] = defaultdict(dict)
    for original in originals:
        where[original.sha256][original.split, original.label] = original

    def moved(row: Mapping[str, Any], sha256: str) -> str | None:
        pools = where.get(sha256, {})
        return None if not pools or pool_of(row) in pools else next(iter(pools.values())).name

    if found := _by_picture(rows, moved):
        raise UserError(
            f"{manifest}: {_made_from(found)} in another class or split by now: {_listed(found)}: {_WAYS_ON}"
        )


_WAYS_ON = "move what moved back, take these rows out with --drop-removed, or begin anew with another --out"


def _by_picture(rows: Rows, name_of: Callable[[Mapping[str, Any], str], str | None]) -> dict[str, list[str]]:
    """The ids of rows by what is said of a parent of theirs. name_of: says it of a row and a digest, or None."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        said = (name_of(row, parent["sha256"]) for parent in row["parents"])
        if (name := next(filter(None, said), None)) is not None:
            found[name].append(row["id"])
    return found


def _made_from(found: Mapping[str, Sequence[str]]) -> str:
    count = sum(map(len, found.values()))
    return f"{count} rows are of pictures that are" if count != 1 else "1 row is of a picture that is"


def _listed(found: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(names)} ({picture})" for picture, names in found.items())
