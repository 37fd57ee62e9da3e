"""The sizes of sources that a run still needs, and the file in `_wanbatch/` that keeps them for later runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

import numpy as np

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.run_context import RunContext
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.source_sizes import Measuring, loading_from, size_rows
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.status import read_internal_file
from wanbatch.manifests.sources.size_cache import SizeCache

CACHE = "source-sizes.parquet"
ROWS_AT_ONCE = 4096
SAVE_SECONDS = 30.0
"""What was measured is kept at least so often, so that a run that is killed while it measures does not begin anew."""

_log = logging.getLogger(__name__)


def size_what_is_pending(
    folder: OutputFolder, context: RunContext, again: Collection[str], stopped: Callable[[], bool]
) -> Plan:
    """The plan of a run, with the sizes of what is still to be made.

    Sources of rows that are made already are left alone, but for one: a worker may have to make that row again to
    show that it works.

    Args:
        folder: open.
        context: what the run is.
        again: ids that are made again; their sources are looked at anew.
        stopped: whether to end early; rows may be without their size then.

    Raises:
        MachineryError: An object store that holds sources does not answer, or the folder cannot be written to.
    """
    plan = context.plan
    rows, anew = _rows_needed(folder, plan, again)
    rows = rows[plan.unsized[rows]]
    if not len(rows):
        return plan
    saved = cache = read_size_cache(folder.url)
    measuring = Measuring(loading_from(plan, context.settings.allow_http), stopped)
    due = time.monotonic() + SAVE_SECONDS
    try:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            if stopped():
                break
            part = rows[first : first + ROWS_AT_ONCE]
            plan, cache = size_rows(plan, context.model, part, cache, measuring, anew)
            if time.monotonic() >= due and cache is not saved:
                folder.write_internal_file(CACHE, cache.to_bytes())
                saved, due = cache, time.monotonic() + SAVE_SECONDS
    finally:
        if cache is not saved:
            folder.write_internal_file(CACHE, cache.to_bytes())
    return plan


def read_size_cache(out: str) -> SizeCache:
    """The sizes that earlier runs of a folder found. One that cannot be read is told of and counts as empty.

    Args:
        out: the output folder, a path or URL.
    """
    try:
        data = read_internal_file(out, CACHE)
        return SizeCache() if data is None else SizeCache.from_bytes(data)
    except (ValueError, MachineryError) as error:
        name = f"{out.rstrip('/')}/_wanbatch/{CACHE}"
        _log.warning("%s: cannot be used (%s); the sources are looked at again and it is written anew", name, error)
        return SizeCache()


def _rows_needed(folder: OutputFolder, plan: Plan, again: Collection[str]) -> tuple[np.ndarray, frozenset[int]]:
    """Indices of the manifest's rows whose sizes are needed, and of those that are looked at anew."""
    done = folder.committed()
    row = plan.images["row"].to_numpy()
    ids = plan.ids()
    finished = np.array([name in done.made or name in done.failed for name in ids], dtype=bool)
    repeated = np.array([name in again for name in ids], dtype=bool) if again else np.zeros(len(ids), dtype=bool)
    needed = ~finished | repeated
    example = next((index for index, name in enumerate(ids) if name in done.made and not repeated[index]), None)
    if needed.any() and example is not None:
        needed[example] = True
    return np.unique(row[needed]), frozenset(row[repeated].tolist())
