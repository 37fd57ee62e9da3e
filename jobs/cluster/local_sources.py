"""The files that the rows of a manifest are made from, as this machine sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice

import pyarrow as pa

from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.finder import SourceFinder
from wanbatch.manifests.sources.path_policy import PathPolicy
from wanbatch.manifests.storage.urls import is_url

ROWS_AT_ONCE = 65_536
MOST_LOOKED_AT = 10_000
"""Files that are looked for before a job is submitted; the cluster looks for all."""


def file_paths(manifest: Manifest) -> Iterator[str]:
    """The paths of all that rows are made from and that are files: sources, creativity maps and sounds."""
    for start in range(0, len(manifest), ROWS_AT_ONCE):
        rows = pa.array(range(start, min(len(manifest), start + ROWS_AT_ONCE)))
        others = chain(manifest.map_sources(rows), manifest.sounds(rows))
        for source in chain(chain.from_iterable(manifest.sources(rows)), others):
            if source is None or source.embedded or source.path is None or "://" in source.path:
                continue
            yield source.path


def location_here(location: str) -> str:
    """A location, if there is something at it. Raises OSError if not, or if it cannot be told."""
    os.stat(location)
    return location


def note_of_absent_files(manifest: Manifest, allow_http: bool) -> str | None:
    """What to say of files that this machine does not see; None: it sees those looked at, or they are in a store.

    Args:
        manifest: whose first `MOST_LOOKED_AT` files are looked for.
        allow_http: whether rows may name addresses.
    """
    if is_url(manifest.source_root):
        return None
    finder = SourceFinder(PathPolicy(manifest.source_root, allow_http, manifest.source_fence))
    absent: list[str] = []
    for path in islice(dict.fromkeys(file_paths(manifest)), MOST_LOOKED_AT):
        try:
            finder.first(path, location_here)
        except SourceError:
            absent.append(path)
        except OSError:  # not to be told from here
            return None
    if not absent:
        return None
    of_them = f"{absent[0]} and {len(absent) - 1} more are" if len(absent) > 1 else f"{absent[0]} is"
    return (
        f"{of_them} not below {manifest.source_root} on this machine: their rows fail unless the nodes see them "
        "there (`wanbatch plan` says which they are)"
    )
