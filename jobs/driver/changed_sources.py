"""Pictures and sounds that changed under their names since rows were made from them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from wanbatch.counting import number_of
from wanbatch.errors import MachineryError, RowError
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.seen_folder import AnyFolder
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader

_log = logging.getLogger(__name__)

DIGESTS = ("sources", "audio_source")
"""Columns that say what rows were made from."""

CLOCKS_DIFFER = 2.0  # seconds by which a file may seem older than it is


def rows_of_changed_sources(folder: AnyFolder, plan: Plan) -> set[str]:
    """The ids of rows that were made from local files which hold something else by now.

    A file is read only if it was changed after its row was begun. What is inside manifests, in stores and on the web
    is not looked at, and neither are maps, of which no digest is recorded.

    Args:
        folder: open.
        plan: of what is in the folder.
    Raises:
        UserError: A part of the folder is damaged.
        MachineryError: It cannot be read, or a file cannot be looked at.
    """
    parts = CommittedParts.open(folder.url)
    data, timings = parts.table("data", ["id", *DIGESTS]), parts.table("timings", ["id", "started"])
    if data is None or timings is None:
        return set()
    used = {row["id"]: _digests(row) for row in data.to_pylist()}
    begun = dict(zip(timings["id"].to_pylist(), timings["started"].to_pylist(), strict=True))
    wanted = [index for index, name in enumerate(plan.ids()) if any(used.get(name, ())) and name in begun]
    if not wanted:
        return set()
    chosen = plan.images.select(["id", "row"]).take(wanted)
    changed = set()
    manifest, rows = plan.manifest, chosen["row"].combine_chunks()
    with SourceLoader(manifest.source_root, fence=manifest.source_fence) as loader:
        files = _Files(loader)
        asked = zip(chosen["id"].to_pylist(), manifest.sources(rows), manifest.sounds(rows), strict=True)
        for name, pictures, sound in asked:
            since = begun[name].timestamp() - CLOCKS_DIFFER
            of_pictures, of_sound = used[name]
            its = [*pictures, *(one for one in (sound,) if one is not None and of_sound)]
            recorded = of_pictures + of_sound
            if len(its) == len(recorded) and any(
                files.is_other(source, sha256, since) for source, sha256 in zip(its, recorded, strict=True)
            ):
                changed.add(name)
    if changed:
        _log.warning(
            "made again, as their pictures or sounds changed: %s, %r for one",
            number_of(len(changed), "rows"),
            min(changed),
        )
    return changed


def _digests(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """SHA-256 of the pictures and of the sound that a row of the folder was made from, hex.

    row: with `DIGESTS`, as far as the folder has these columns.
    """
    sound = row.get("audio_source")
    return [one["sha256"] for one in row.get("sources") or ()], [] if sound is None else [sound["sha256"]]


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
