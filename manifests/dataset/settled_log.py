"""The commits of a folder that its run may be writing to: read without the lock, with the parts as they say.

Parts that a commit replaces take their names after it, so between the two a look finds commits and parts of different
moments: it is taken again.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.commit_log import CommitLog, Part, ensure_parts_intact, read_commit_log
from wanbatch.manifests.dataset.committed import part_of
from wanbatch.manifests.storage.backend import StorageBackend

LOOKS, PAUSE_SECONDS = 40, 0.25
"""At parts that a run is replacing, before they are given up, and between two of these looks."""


def read_settled_log(backend: StorageBackend, kinds: Collection[str]) -> CommitLog:
    """All commit records, and all parts of some kinds are there as these say.

    Args:
        backend: of the folder.
        kinds: of parts that are looked at.

    Raises:
        UserError: A record is damaged, a part is gone or has another size, or one was left half replaced.
        OSError: The disk or the store refuses.
    """
    log = read_commit_log(backend)
    for _ in range(LOOKS):
        wrong = _not_as_said(backend, log, kinds)
        if not wrong:
            return log
        waiting = [part.temporary for part in wrong.values() if part.temporary is not None]
        before, log = log, read_commit_log(backend)
        if log.records != before.records:
            continue
        if len(waiting) == len(wrong) and any(backend.exists(name) for name in waiting):
            time.sleep(PAUSE_SECONDS)
            continue
        wrong = _not_as_said(backend, log, kinds)  # what was waiting may have taken its name just now
        before, log = log, read_commit_log(backend)
        if log.records == before.records:
            ensure_parts_intact(backend, wrong, _sizes(backend, wrong))
    raise UserError(
        f"{backend.location(next(iter(wrong)))}: a run is replacing it: wait for that, or, if none goes on, give the "
        "command of the folder's run again, which finishes it"
    )


def _not_as_said(backend: StorageBackend, log: CommitLog, kinds: Collection[str]) -> dict[str, Part]:
    """Parts that are gone or have another size, by their names."""
    parts = {name: part for name, part in log.parts.items() if part_of(name)[0] in kinds}
    found = _sizes(backend, parts)
    return {name: part for name, part in parts.items() if found.get(name) != part.bytes}


def _sizes(backend: StorageBackend, parts: Collection[str]) -> dict[str, int]:
    """Name -> bytes of all that is where these parts are."""
    return {name: size for kind in {part_of(name)[0] for name in parts} for name, size in backend.sizes(kind).items()}
