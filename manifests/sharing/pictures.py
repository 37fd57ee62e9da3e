"""The committed pictures of an output folder, one by one, for those who pass them on."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset.commit_log import repair_command
from wanbatch.manifests.dataset.disk_errors import first_line
from wanbatch.manifests.dataset.part_files import row_groups
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.storage.backend import open_backend

LONGEST = 128
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture.

    Attributes:
        name: that its files can have: unique, also where upper and lower case are one, without dots.
        image: its file.
        suffix: of the file's name, such as `.png`.
        row: all other columns, as values that JSON has.
    """

    name: str
    image: bytes
    suffix: str
    row: dict[str, Any]


class Names:
    """Names for files, made of ids: letters, digits, `-` and `_`, none twice, at most 128 characters.

    An id that is such a name is kept. Another one (with a dot, like a device of Windows, or equal to an earlier one
    but for its case) gets a hash at its end.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        """The name for an id."""
        free = _SAFE.fullmatch(name) and name.lower() not in _DEVICES and name.lower() not in self._taken
        found = name if free else _hashed(name)
        while found.lower() in self._taken:
            found = _hashed(found)
        self._taken.add(found.lower())
        return found


def _hashed(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    text = re.sub(r"[^A-Za-z0-9_-]", "_", name).lstrip("_-") or "id"
    return f"{text[: LONGEST - 11]}-{digest}"


def contents_of(out: str | Path, partial: bool) -> Contents:
    """What an output folder holds, of which a copy is made.

    Args:
        out: the folder, a path or a URL.
        partial: also if rows are still to be made.
    Raises:
        UserError: It is no output folder, holds no picture, is unfinished, or lacks a committed part.
        MachineryError: It cannot be read.
    """
    contents, found = Contents.of(out), status(out)
    if found["pending"] != 0 and not partial:
        total = "?" if found["rows"] is None else found["rows"]
        raise UserError(
            f"{out}: {found['done']} of {total} pictures are made so far: run the same `wanbatch run` command again "
            "to make the others, or pass on what there is with --partial"
        )
    if not contents.images:
        raise UserError(f"{out}: holds no picture yet: there is nothing to pass on")
    return contents


def pictures(contents: Contents) -> Iterator[Picture]:
    """All pictures, in the order of the parts.

    Raises:
        MachineryError: A part cannot be read.
    """
    names = Names()
    for group in groups(contents):
        rows = group.drop_columns(["image"]).to_pylist()
        for image, row in zip(group["image"].to_pylist(), rows, strict=True):
            suffix = "." + str(image["path"]).rpartition(".")[2]
            yield Picture(names.of(row["id"]), image["bytes"], suffix, {n: plain(v) for n, v in row.items()})


def groups(contents: Contents) -> Iterator[pa.Table]:
    """The rows of all parts, a row group at a time. Raises MachineryError."""
    backend = open_backend(contents.folder, reading=True)
    for part in contents.parts:
        try:
            yield from row_groups(backend, part)
        except (OSError, pa.ArrowException) as error:
            raise MachineryError(
                f"{backend.location(part)}: cannot be read ({first_line(error)}): run the same command again; if it "
                f"stays so, `{repair_command(backend)}`"
            ) from error


def plain(value: Any) -> Any:
    """A value of a column as JSON has it: bytes in base64, times as ISO 8601, NaN and infinities as null.

    A map is a list of objects with `key` and `value`, since readers of JSON give the entries of a list one type.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, tuple):  # an entry of a map; lists come as lists
        return {"key": plain(value[0]), "value": plain(value[1])}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
