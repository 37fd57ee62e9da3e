"""A source file that the driver sees, by which a worker can tell whether it sees the same folder of sources."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa

from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.path_policy import PathPolicy
from wanbatch.manifests.sources.web_address import is_web_address
from wanbatch.manifests.storage.urls import is_url

ROWS_LOOKED_AT = 100


def seen_source(plan: Plan, pending: np.ndarray) -> str | None:
    """The path of a local file that images are made from and that this process sees; None if there is none.

    Args:
        plan: what is made.
        pending: indices, in the plan, of the images that will be made; the first `ROWS_LOOKED_AT` are looked at.
    """
    rows = plan.images["row"].take(pa.array(pending[:ROWS_LOOKED_AT], pa.int64()))
    policy = PathPolicy(plan.manifest.source_root, fence=plan.manifest.source_fence)
    sounds = [sound for sound in plan.manifest.sounds(rows) if sound is not None]
    for source in (*(source for sources in plan.manifest.sources(rows) for source in sources), *sounds):
        for path in _local_files(source, policy):
            if os.path.isfile(path):
                return path
    return None


def _local_files(source: Source, policy: PathPolicy) -> tuple[str, ...]:
    """Where a source may be on this machine; for an embedded one, its manifest. Empty: it is elsewhere or refused."""
    if source.file is not None:
        return () if is_url(source.file) else (source.file,)
    path = source.path or ""
    if policy.in_store or is_web_address(path) or policy.problem(path) is not None:
        return ()
    return policy.locations(path)
