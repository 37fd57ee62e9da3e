"""Columns that pass through, of images that are made: values that the manifest has by now and the dataset has not."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.seen_folder import AnyFolder, SeenFolder
from wanbatch.manifests.dataset.status import recorded_plan
from wanbatch.manifests.storage.arrow_casts import cast
from wanbatch.manifests.storage.urls import is_url

MOST_PARTS, MOST_PARTS_OF_STORE = 256, 64
"""How many parts are looked at, evenly spread, on a disk and in a store, which takes its time for each. This and the
next one keep it to a second or so, whatever the folder."""
MOST_IMAGES = 1 << 16
"""About how many images are looked at."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """Images whose values are not those of the manifest. columns: in which they differ. ids: of the images."""

    columns: tuple[str, ...]
    ids: tuple[str, ...]


def warn_of_kept_values(folder: AnyFolder, plan: Plan, again: Collection[str]) -> None:
    """Tell the user if a manifest that changed since the last run has other values for images that are made.

    A row's digest is of what it asks of the model, so such images are not made again, and keep the values that they
    were made with. In a large folder some are looked at, evenly spread.

    Args:
        folder: open, before it notes this run's plan.
        plan: with the columns that the folder's parts will have.
        again: ids that are made again.

    Raises:
        UserError: A committed part is not there as it was committed. MachineryError: It cannot be read.
    """
    if not folder.committed().made or recorded_plan(folder.url).get("digest") in (None, plan.manifest.digest):
        return
    columns = plan.manifest.passthrough.column_names
    parts = folder.parts if isinstance(folder, SeenFolder) else CommittedParts.open(folder.url)
    step = step_between(len(parts.names["data"]), len(folder.committed().made), is_url(folder.url))
    some = replace(parts, names={**parts.names, "data": parts.names["data"][::step]})
    made = some.table("data", ["id", *columns]) if columns else None
    if made is None or not (kept := kept_values(made, plan, again)).ids:
        return
    several = f"{len(kept.ids)}{' or more' if step > 1 else ''} images that are made keep the values"
    one = step == 1 and len(kept.ids) == 1
    _log.warning(
        "%s: %s of %s that %s made with, %r for one, where %s has others by now: to have "
        "these, join the manifest to the dataset by id, or fill another output folder",
        folder.url,
        "1 image that is made keeps the values" if one else several,
        ", ".join(kept.columns),
        "it was" if one else "they were",
        kept.ids[0],
        plan.manifest.path,
    )


def step_between(parts: int, images: int, in_store: bool) -> int:
    """Of how many parts one is looked at.

    Args:
        parts: of the folder.
        images: in them.
        in_store: whether they are in a store.
    """
    most = MOST_PARTS_OF_STORE if in_store else MOST_PARTS
    return max(1, -(-parts // most), -(-images // MOST_IMAGES))


def kept_values(made: pa.Table, plan: Plan, again: Collection[str]) -> Kept:
    """Compare images that are made with the manifest.

    Args:
        made: their `id`, and columns that pass through as far as there are any; others count as null.
        plan: of the manifest.
        again: ids that are left out, since they are made again.
    """
    ids = made["id"].to_pylist()
    known = set(ids).difference(again)
    places = {name: place for place, name in enumerate(plan.ids()) if name in known}
    found = [places.get(name) for name in ids]
    there = pa.array([place is not None for place in found], pa.bool_())
    made = made.filter(there)
    rows = plan.images["row"].take(pa.array([place for place in found if place is not None], pa.int64()))
    columns, differ = [], pa.array([False] * len(made))
    for name in plan.manifest.passthrough.column_names:
        wanted = plan.manifest.passthrough[name].take(rows)
        kept = made[name] if name in made.column_names else pa.chunked_array([pa.nulls(len(made), wanted.type)])
        other = _differ(kept, wanted)
        if pc.any(other).as_py():
            columns.append(name)
            differ = pc.or_(differ, other)
    return Kept(tuple(columns), tuple(made["id"].filter(differ).to_pylist()))


def _differ(found: pa.ChunkedArray, wanted: pa.ChunkedArray) -> pa.Array:
    """Where values are not the same, NaN being the same as itself; nowhere if the types have nothing in common."""
    try:
        plain = cast(found, wanted.type).to_pylist()
    except pa.ArrowException:
        return pa.array([False] * len(found))
    pairs = zip(plain, wanted.to_pylist(), strict=True)
    return pa.array([repr(one) != repr(other) for one, other in pairs], pa.bool_())
