"""What is said of a dataset when it is published: counts over its rows, failures, checks. Reads no picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.checks import FOLDER, REJECTED_BY, checks_tables
from wanbatch.manifests.dataset.commit_log import repair_command
from wanbatch.manifests.dataset.disk_errors import first_line
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
        rejected: check -> pictures of these that it rejected, as they are; None: no check was run.
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
    rejections, rejected = _rejections(contents.folder), Counter[str]()
    try:
        says = "is_synthetic" in read_schema(backend, contents.parts[0]).names
        columns = ["id", "sha256", "sources", "model", *(["is_synthetic"] if says else [])]
        for part in contents.parts:
            for group in row_groups(backend, part, columns):
                for row in group.to_pylist():
                    used = row["sources"] or ()
                    with_sources += bool(used)
                    synthetic += bool(row.get("is_synthetic"))
                    hashes.update(source["sha256"] for source in used)
                    named = (row["model"], *(source["path"] for source in used))
                    paths.update(dict.fromkeys(name for name in named if name and _is_private(name)))
                    if rejections and (its := rejections.get(row["id"])):
                        rejected.update(its.get(row["sha256"], its.get(None, ())))
    except (OSError, pa.ArrowException) as error:
        raise MachineryError(
            f"{contents.folder}: cannot be read ({first_line(error)}): run the same command again; if it stays so, "
            f"`{repair_command(backend)}`"
        ) from error
    found = status(contents.folder)
    return Facts(
        with_sources=with_sources,
        sources=len(hashes),
        synthetic=synthetic if says else None,
        private_paths=tuple(paths)[:5],
        failures=found["failures"],
        rejected=None if rejections is None else dict(sorted(rejected.items())),
        fingerprint=found["fingerprint"],
    )


def _is_private(name: str) -> bool:
    """Whether a name is a path that starts at the root of a machine."""
    return name.startswith(("/", "~", "\\")) or name[1:3] in (":\\", ":/")


def _rejections(folder: str) -> dict[str, dict[str | None, Sequence[str]]] | None:
    """What `wanbatch check` left beside the parts: id -> SHA-256 of its picture -> the checks that reject it.

    Pictures may have left the folder since, or been made again. A part of `checks/` that others wrote may not say
    which picture it means: None stands for its hash. None alone: nothing was checked.
    """
    backend = open_backend(folder, reading=True)
    found: dict[str, dict[str | None, Sequence[str]]] = {}
    try:
        tables = list(checks_tables(backend, ["id", "sha256", REJECTED_BY]))
    except (OSError, pa.ArrowException) as error:
        raise MachineryError(
            f"{folder}: its checks cannot be read ({first_line(error)}): move the folder {FOLDER} away to publish "
            "without them"
        ) from error
    for table in tables:
        for row in table.to_pylist() if {"id", REJECTED_BY} <= {*table.column_names} else ():
            if row[REJECTED_BY]:
                found.setdefault(row["id"], {})[row.get("sha256")] = row[REJECTED_BY]
    return found if tables else None
