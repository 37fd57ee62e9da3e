"""The files that the rows of a manifest are made from, as this machine sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.finder import SourceFinder
from wanbatch.manifests.sources.path_policy import PathPolicy, is_below
from wanbatch.manifests.storage.urls import absolute, is_url, local_path

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


def source_folders(settings: Settings) -> dict[str, str]:
    """The folders of sources that a run is given and that are in no store: flag -> path, as it was given."""
    given = {"--source-root": settings.source_root, "--source-fence": settings.source_fence}
    return {flag: folder for flag, folder in given.items() if folder is not None and not is_url(folder)}


def folder_of_the_cluster(manifest: str | Path, settings: Settings) -> str | None:
    """The folder of sources that is not on this machine and may be one that the nodes see; None: there is none.

    Args:
        manifest: path or URL.
        settings: of the run.
    Raises:
        UserError: A folder of sources is not there, and can be none of the cluster's: something else has its name,
            its path is one of this machine, or the manifest is below the folder that it would be in, which the
            nodes share then; or the fence is in a store and sources are not, or the other way round.
    """
    if settings.source_fence is not None:
        PathPolicy(manifest if settings.source_root is None else settings.source_root, fence=settings.source_fence)
    found = None
    for flag, given in source_folders(settings).items():
        path = absolute(given)
        if os.path.isdir(path):
            continue
        if not local_path(given).is_absolute() or os.path.exists(path) or _is_seen_beside(path, manifest):
            raise UserError(f"{path}: is not a folder: give {flag} an existing one, or the path that every node sees")
        found = found or path
    return found


def _is_seen_beside(path: str, manifest: str | Path) -> bool:
    """Whether a path would be in a folder that holds the manifest, too, so that this machine sees what nodes see.

    A link that leads nowhere here may lead somewhere on the nodes.
    """
    folder = os.path.dirname(path)
    if is_url(manifest) or os.path.islink(path) or folder == os.path.dirname(folder):
        return False
    return os.path.exists(absolute(manifest)) and is_below(absolute(manifest), folder)
