"""What is said of a dataset when it is published: counts over its rows, failures, checks. Reads no picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.checks import FOLDER, REJECTED_BY, checks_tables
from wanbatch.manifests.dataset.part_files import read_schema, row_groups
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.storage.backend import open_backend


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the rows.

    Attributes:
        with_sources: how many pictures started from others.
        sources: how many different files these are, by SHA-256.
        synthetic: how many pictures a generative model has part in; None: the folder does not say.
        private_paths: values of the rows that name folders of the machine, a few of them.
        failures: error class -> rows.
        rejected: check -> pictures that it rejected; None: no check was run.
        fingerprint: of the run.
    """

    with_sources: int
    sources: int
    synthetic: int | None
    private_paths: tuple[str, ...]
    failures: Mapping[str, int]
    rejected: Mapping[str, int] | None
    fingerprint: Mapping[str, Any]


def facts_of(contents: Contents) -> Facts:
    """Look through the rows of an output folder. Raises MachineryError."""
    backend = open_backend(contents.folder, reading=True)
    with_sources = synthetic = 0
    hashes, paths = set[str](), dict[str, None]()
    try:
        says = "is_synthetic" in read_schema(backend, contents.parts[0]).names
        columns = ["sources", "model", *(["is_synthetic"] if says else [])]
        for part in contents.parts:
            for group in row_groups(backend, part, columns):
                for row in group.to_pylist():
                    used = row["sources"] or ()
                    with_sources += bool(used)
                    synthetic += bool(row.get("is_synthetic"))
                    hashes.update(source["sha256"] for source in used)
                    named = (row["model"], *(source["path"] for source in used))
                    paths.update(dict.fromkeys(name for name in named if name and _is_private(name)))
    except (OSError, pa.ArrowException) as error:
        raise MachineryError(f"{contents.folder}: cannot be read ({error}): run the same command again") from error
    found = status(contents.folder)
    return Facts(
        with_sources=with_sources,
        sources=len(hashes),
        synthetic=synthetic if says else None,
        private_paths=tuple(paths)[:5],
        failures=found["failures"],
        rejected=_rejected(contents.folder),
        fingerprint=found["fingerprint"],
    )


def _is_private(name: str) -> bool:
    """Whether a name is a path that starts at the root of a machine."""
    return name.startswith(("/", "~", "\\")) or name[1:3] in (":\\", ":/")


def _rejected(folder: str) -> dict[str, int] | None:
    """What `wanbatch check` left beside the parts."""
    backend = open_backend(folder, reading=True)
    counts: Counter[str] = Counter()
    try:
        tables = list(checks_tables(backend, [REJECTED_BY]))
    except (OSError, pa.ArrowException) as error:
        raise MachineryError(
            f"{folder}: its checks cannot be read ({error}): move the folder {FOLDER} away to publish without them"
        ) from error
    for table in tables:
        for rejected in table[REJECTED_BY].to_pylist() if table.num_columns else ():
            counts.update(rejected or ())
    return dict(sorted(counts.items())) if tables else None
