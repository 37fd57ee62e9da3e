"""Pictures that changed under their names since rows were made from them."""

from __future__ import annotations

import hashlib
import logging
import os

from wanbatch.errors import MachineryError, RowError
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader

_log = logging.getLogger(__name__)

CLOCKS_DIFFER = 2.0  # seconds by which a file may seem older than it is


def rows_of_changed_sources(folder: OutputFolder, plan: Plan) -> set[str]:
    """The ids of rows that were made from local files which hold something else by now.

    A file is read only if it was changed after its row was begun. Pictures inside manifests, in stores and on the web
    are not looked at, and neither are maps.

    Args:
        folder: open.
        plan: of what is in the folder.
    Raises:
        MachineryError: A part of the folder cannot be read, or a file cannot be looked at.
    """
    parts = CommittedParts.open(folder.url)
    data, timings = parts.table("data", ["id", "sources"]), parts.table("timings", ["id", "started"])
    if data is None or timings is None:
        return set()
    used = dict(zip(data["id"].to_pylist(), data["sources"].to_pylist(), strict=True))
    begun = dict(zip(timings["id"].to_pylist(), timings["started"].to_pylist(), strict=True))
    wanted = [index for index, name in enumerate(plan.ids()) if used.get(name) and name in begun]
    if not wanted:
        return set()
    chosen = plan.images.select(["id", "row"]).take(wanted)
    changed = set()
    root, fence = plan.manifest.source_root, plan.manifest.source_fence
    with SourceLoader(root, fence=fence) as loader:
        files = _Files(loader)
        sources = plan.manifest.sources(chosen["row"].combine_chunks())
        for name, its in zip(chosen["id"].to_pylist(), sources, strict=True):
            since = begun[name].timestamp() - CLOCKS_DIFFER
            recorded = [one["sha256"] for one in used[name]]
            if len(its) == len(recorded) and any(
                files.is_other(source, sha256, since) for source, sha256 in zip(its, recorded, strict=True)
            ):
                changed.add(name)
    if changed:
        _log.warning("%d rows are made again, as their pictures changed: %r for one", len(changed), min(changed))
    return changed


class _Files:
    """What local files hold; each is read once."""

    def __init__(self, loader: SourceLoader):
        self._loader = loader
        self._known: dict[str, str | None] = {}

    def is_other(self, source: Source, sha256: str, since: float) -> bool:
        """Whether a source is a local file that was changed after a time and holds other bytes than it did."""
        path = "" if source.embedded else self._loader.cache_key(source)
        if not path.startswith("/"):
            return False
        try:
            if os.stat(path).st_mtime < since:
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False  # what was made of it stays
        except OSError as error:
            raise MachineryError(f"{path}: cannot be looked at ({error.strerror or error})") from error
        if path not in self._known:
            self._known[path] = self._digest(source)
        return self._known[path] not in (None, sha256)

    def _digest(self, source: Source) -> str | None:
        try:
            return hashlib.sha256(self._loader.encoded(source)).hexdigest()
        except RowError as error:
            _log.warning("what was made from it stays: %s", error)
            return None
