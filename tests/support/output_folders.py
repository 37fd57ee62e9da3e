"""Fills output folders and looks at what is in them, for the tests of `wanbatch.manifests`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from manifest_making import unit_of

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt


def publish(folder: OutputFolder, unit: int, names: list[str], failed: Sequence[str] = (), **options) -> None:
    """One attempt of a unit, published; nothing is left of it if that fails. options: of `unit_of`."""
    attempt = write_attempt(folder.url, attempt="try", **unit_of(unit, names, failed, **options))
    try:
        folder.publish(attempt)
    finally:
        folder.discard(attempt)


ASIDE = ("_wanbatch/lock", "_wanbatch/log.jsonl", "_wanbatch/orphans/")


def tree(out: Path) -> list[str]:
    """The names of all files but those of the lock, the log, and what was set aside, sorted."""
    found = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(ASIDE))


def orphans(out: Path) -> list[str]:
    """The names of the files in `_wanbatch/orphans/`, sorted."""
    return sorted(path.name for path in (out / "_wanbatch/orphans").glob("*"))


def visible(out: Path) -> tuple[list[str], list[str], list[str]]:
    """The ids that readers of data, timings and failures see, sorted."""
    data, timings, failures = (_ids(out / kind) for kind in ("data", "timings", "failures"))
    return data, timings, failures


def _ids(folder: Path) -> list[str]:
    parts = folder.glob("part-*.parquet")
    return sorted(name for part in parts for name in pq.read_table(part)["id"].to_pylist())
