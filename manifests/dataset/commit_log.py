"""Commit records: what counts in an output folder, and the files it consists of.

A commit file holds one record a line; the units of one file were committed together. Records count in the order
of their `seq`. A record may name parts of earlier ones that it replaces, since it decides some of their ids anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.part_files import KINDS, Attempt, is_part
from wanbatch.manifests.storage.backend import StorageBackend

FORMAT = 1
COMMITS = "_wanbatch/commits"

_COMMIT = re.compile(r"\d{5,}\.json")
_NEEDED = {"unit", "ids", "failed", "parts"}


class Made(Set[str]):
    """The ids that have an image: a set, and `made[id]` is the digest of the row it was made from, or None."""

    def __init__(self, digests: dict[str, str | None]):
        self._digests = digests

    def __contains__(self, name: object) -> bool:
        return name in self._digests

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def __getitem__(self, name: str) -> str | None:
        return self._digests[name]

    def get(self, name: str) -> str | None:
        """The digest of an id; None if there is none, or no such id."""
        return self._digests.get(name)

    def __repr__(self) -> str:
        return f"Made({self._digests!r})"

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:
        return set(it)


class Committed:
    """What the commits of a folder hold; it grows as units are published."""

    def __init__(self) -> None:
        self._made: dict[str, str | None] = {}
        self._failed: dict[str, str] = {}
        self._units: set[int] = set()
        self._unit_of: dict[str, int] = {}
        self._seq = -1

    @property
    def made(self) -> Made:
        """The ids with an image."""
        return Made(self._made)

    @property
    def failed(self) -> Mapping[str, str]:
        """Id -> error class, of the ids that have no image."""
        return self._failed

    @property
    def units(self) -> Set[int]:
        """The numbers of the committed units."""
        return self._units

    @property
    def where(self) -> Mapping[str, int]:
        """Id -> the unit whose parts hold it."""
        return self._unit_of

    @property
    def next_seq(self) -> int:
        """The number of the next commit record."""
        return self._seq + 1

    @property
    def next_unit(self) -> int:
        """The lowest number above all committed units."""
        return max(self._units, default=-1) + 1

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a commit record. What it says of an id holds, whatever earlier ones said."""
        made: Sequence[str] = record["ids"]
        failed: Mapping[str, str] = record["failed"]
        digests = record.get("digests") or [None] * (len(made) + len(failed))
        unit = record["unit"]
        self._units.add(unit)
        self._seq = max(self._seq, record.get("seq", -1))
        self._made.update(zip(made, digests, strict=False))
        self._unit_of.update(dict.fromkeys(made, unit))
        if self._failed:
            for name in made:
                self._failed.pop(name, None)
        for name, error_class in failed.items():
            self._made.pop(name, None)
            self._failed[name] = error_class
            self._unit_of[name] = unit


@dataclass(frozen=True, slots=True)
class Replacement:
    """A part without some of its ids, written to `_wanbatch/tmp/` until it takes the old file's name.

    Attributes:
        name: of the part, relative to the folder.
        temporary: the name of the new file meanwhile; None if nothing was left of the part, which goes then.
        bytes, sha256: of the new file; None if there is none.
    """

    name: str
    temporary: str | None
    bytes: int | None
    sha256: str | None

    def to_record(self) -> dict[str, Any]:
        """As it stands in a commit record, where `temporary` is called `draft`."""
        return {"name": self.name, "draft": self.temporary, "bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Replacement:
        """What `to_record` gave."""
        return cls(record["name"], record["draft"], record["bytes"], record["sha256"])


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is committed.

    Attributes:
        bytes: its size.
        commit: the name of the commit file that says so.
        temporary: where its content may still be waiting to take the part's name, if it was replaced.
    """

    bytes: int
    commit: str
    temporary: str | None = None


@dataclass(frozen=True, slots=True)
class CommitLog:
    """All commit records together.

    Attributes:
        committed: what they hold.
        parts: name -> the part that must be there.
        dropped: names of parts that must not be there.
    """

    committed: Committed
    parts: Mapping[str, Part]
    dropped: frozenset[str]


def read_commit_log(backend: StorageBackend) -> CommitLog:
    """Add up all commit records. Raises UserError if one is damaged."""
    committed = Committed()
    parts: dict[str, Part] = {}
    dropped: set[str] = set()
    for file, record in read_commits(backend):
        committed.add(record)
        for part in record["parts"].values():
            parts[part["name"]] = Part(part["bytes"], file)
        for new in map(Replacement.from_record, record.get("replaced", ())):
            if parts.pop(new.name, None) is None:
                continue  # the commit of the old part was taken away by hand: what is left of it counts no more
            if new.temporary is None or new.bytes is None:
                dropped.add(new.name)
            else:
                parts[new.name] = Part(new.bytes, file, new.temporary)
    return CommitLog(committed, parts, frozenset(dropped - parts.keys()))


def read_commits(backend: StorageBackend) -> Iterator[tuple[str, dict[str, Any]]]:
    """(commit file, record), in the order in which they were committed. Raises UserError if one is damaged."""
    names = [name for name in backend.sizes(COMMITS) if _COMMIT.fullmatch(name.rpartition("/")[2])]
    names.sort(key=lambda name: int(name.rpartition("/")[2][:-5]))
    records = []
    ordered = True
    for name, data in zip(names, backend.read_all(names), strict=True):
        for line in data.splitlines():
            record = _parse(backend, name, line)
            if not record.keys() >= _NEEDED:
                raise UserError(f"{backend.location(name)}: is damaged: remove it to make its rows again")
            ordered = ordered and not record.get("replaced")
            records.append((name, record))
    if not ordered:
        records.sort(key=lambda found: found[1].get("seq", -1))
    return iter(records)


def commit_record(
    attempt: Attempt, parts: Mapping[str, Any], seq: int, replaced: Sequence[Replacement] = ()
) -> dict[str, Any]:
    """The commit record of an attempt.

    Args:
        attempt: what is committed.
        parts: kind -> name, bytes and sha256 of the part.
        seq: the number of the record; records count in that order.
        replaced: older parts that the attempt takes ids out of.
    """
    record = {
        "unit": attempt.unit,
        "seq": seq,
        "attempt": attempt.attempt,
        "ids": list(attempt.made),
        "failed": dict(attempt.failed),
        "parts": dict(parts),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if attempt.digests:
        record["digests"] = [attempt.digests.get(name) for name in attempt.all_ids()]
    if replaced:
        record["replaced"] = [new.to_record() for new in replaced]
    return record


def write_commit(backend: StorageBackend, records: Sequence[Mapping[str, Any]]) -> None:
    """Commit units together. Durable on return. Raises FileExistsError if the first one is committed."""
    backend.write_exclusive(commit_name(record["unit"] for record in records), b"\n".join(map(to_json, records)))


def commit_name(units: Iterable[int]) -> str:
    """The commit file of units that are committed together."""
    return f"{COMMITS}/{min(units):05d}.json"


def part_name(kind: str, unit: int) -> str:
    """Where readers find a unit's part."""
    return f"{kind}/part-{unit:05d}.parquet"


def published_parts(backend: StorageBackend) -> dict[str, int]:
    """Name relative to the folder -> bytes, of every part that readers see."""
    return {name: size for kind in KINDS for name, size in backend.sizes(kind).items() if is_part(name)}


def ensure_parts_intact(backend: StorageBackend, parts: Mapping[str, Part], found: Mapping[str, int]) -> None:
    """Raises UserError if a part that a commit names is gone or has another size."""
    for name, part in parts.items():
        if found.get(name) != part.bytes:
            state = "is gone" if name not in found else f"has {found[name]} bytes instead of {part.bytes}"
            remedy = f"restore it, or remove {part.commit} to make its rows again"
            raise UserError(f"{backend.location(name)}: {state}: {remedy}")


def read_json(backend: StorageBackend, name: str) -> dict[str, Any]:
    """A JSON file of `_wanbatch/`. Raises UserError if it is damaged or of another format."""
    try:
        data = backend.read(name)
    except FileNotFoundError as error:
        raise UserError(f"{backend.location(name)}: cannot be read ({error})") from error
    return _parse(backend, name, data)


def _parse(backend: StorageBackend, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{backend.location(name)}: cannot be read ({error}): restore it, or choose another folder"
        ) from error
    if not isinstance(value, dict) or value.get("format", FORMAT) != FORMAT:
        raise UserError(f"{backend.location(name)}: was written by another version of wanbatch: use that one")
    return value


def to_json(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON as it is stored."""
    return json.dumps(value, indent=indent, separators=None if indent else (",", ":")).encode()
