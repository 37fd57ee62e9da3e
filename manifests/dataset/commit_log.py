"""Commit records: what counts in an output folder, and the files it consists of.

A commit file holds one record a line; the units of one file were committed together. Records count in the order
of their `seq`. A record may name parts of earlier ones that it replaces, since it decides some of their ids anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.part_files import KINDS, Attempt, is_part
from wanbatch.manifests.storage.local import StorageBackend

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


@dataclass(slots=True)
class Committed:
    """What the commits of a folder hold; grows as units are published. Not for changing from outside.

    failed: id -> error class of those that have no image. units: numbers of the committed units.
    where: id -> the unit whose parts hold it. seq: of the last record.
    """

    failed: dict[str, str] = field(default_factory=dict)
    units: set[int] = field(default_factory=set)
    where: dict[str, int] = field(default_factory=dict)
    seq: int = -1
    _made: dict[str, str | None] = field(default_factory=dict)
    _failed_digests: dict[str, str] = field(default_factory=dict)

    @property
    def made(self) -> Made:
        """The ids with an image."""
        return Made(self._made)

    @property
    def next_unit(self) -> int:
        """The lowest number above all committed units."""
        return max(self.units, default=-1) + 1

    def digest(self, name: str) -> str | None:
        """The digest of the row that a made or failed id was asked for by; None if none was noted."""
        return self._made.get(name) or self._failed_digests.get(name)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a commit record. What it says of an id holds, whatever earlier ones said."""
        made: Sequence[str] = record["ids"]
        failed: Mapping[str, str] = record["failed"]
        digests = record.get("digests") or [None] * (len(made) + len(failed))
        unit = record["unit"]
        self.units.add(unit)
        self.seq = max(self.seq, record.get("seq", -1))
        self._made.update(zip(made, digests, strict=False))
        self.where.update(dict.fromkeys(made, unit))
        if self.failed:
            for name in made:
                self.failed.pop(name, None)
                self._failed_digests.pop(name, None)
        for name, digest in zip(failed, digests[len(made) :], strict=True):
            self._made.pop(name, None)
            self.failed[name] = failed[name]
            self.where[name] = unit
            self._failed_digests.pop(name, None)
            if digest is not None:
                self._failed_digests[name] = digest


@dataclass(frozen=True, slots=True)
class Replacement:
    """A part without some of its ids. bytes, sha256: of the new file; None if nothing was left of it.

    name: of the part, relative to the folder. draft: the new file, until it is put in the part's place.
    """

    name: str
    draft: str | None
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is committed: its size, the commit file that says so, and its draft if it was replaced."""

    bytes: int
    commit: str
    draft: str | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """All commit records together. parts: name -> what must be there. dropped: parts that must not be there."""

    committed: Committed
    parts: dict[str, Part]
    dropped: frozenset[str]


def read_ledger(place: StorageBackend) -> Ledger:
    """Add up all commit records. Raises UserError if one is damaged."""
    committed = Committed()
    parts: dict[str, Part] = {}
    dropped: set[str] = set()
    for file, record in read_commits(place):
        committed.add(record)
        for part in record["parts"].values():
            parts[part["name"]] = Part(part["bytes"], file)
        for new in record.get("replaced", ()):
            if parts.pop(new["name"], None) is None:
                continue  # the commit of the old part was taken away by hand: what is left of it counts no more
            if new["draft"] is None:
                dropped.add(new["name"])
            else:
                parts[new["name"]] = Part(new["bytes"], file, new["draft"])
    return Ledger(committed, parts, frozenset(dropped - parts.keys()))


def read_commits(place: StorageBackend) -> Iterator[tuple[str, dict[str, Any]]]:
    """(commit file, record), in the order in which they were committed. Raises UserError if one is damaged."""
    names = [name for name in place.sizes(COMMITS) if _COMMIT.fullmatch(name.rpartition("/")[2])]
    names.sort(key=lambda name: int(name.rpartition("/")[2][:-5]))
    records = []
    ordered = True
    for name, data in zip(names, place.read_all(names), strict=True):
        for line in data.splitlines():
            record = _parse(place, name, line)
            if not record.keys() >= _NEEDED:
                raise UserError(f"{place.shown(name)}: is damaged: remove it to make its rows again")
            ordered = ordered and not record.get("replaced")
            records.append((name, record))
    if not ordered:
        records.sort(key=lambda found: found[1].get("seq", -1))
    return iter(records)


def record_of(
    attempt: Attempt, parts: Mapping[str, Any], seq: int, replaced: Sequence[Replacement] = ()
) -> dict[str, Any]:
    """The commit record of an attempt. parts: kind -> {name, bytes, sha256}."""
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
        record["replaced"] = [{key: getattr(new, key) for key in Replacement.__slots__} for new in replaced]
    return record


def write_commit(place: StorageBackend, records: Sequence[Mapping[str, Any]]) -> None:
    """Commit units together. Durable on return. Raises FileExistsError if the first one is committed."""
    place.write_exclusive(commit_name(record["unit"] for record in records), b"\n".join(map(to_json, records)))


def commit_name(units: Iterable[int]) -> str:
    """The commit file of units that are committed together."""
    return f"{COMMITS}/{min(units):05d}.json"


def part_name(kind: str, unit: int) -> str:
    """Where readers find a unit's part."""
    return f"{kind}/part-{unit:05d}.parquet"


def published(place: StorageBackend) -> dict[str, int]:
    """Name relative to the folder -> size, of every part in place."""
    return {name: size for kind in KINDS for name, size in place.sizes(kind).items() if is_part(name)}


def require_whole(place: StorageBackend, parts: Mapping[str, Part], found: Mapping[str, int]) -> None:
    """Raises UserError if a part that a commit names is gone or has another size."""
    for name, part in parts.items():
        if found.get(name) != part.bytes:
            state = "is gone" if name not in found else f"has {found[name]} bytes instead of {part.bytes}"
            remedy = f"restore it, or remove {part.commit} to make its rows again"
            raise UserError(f"{place.shown(name)}: {state}: {remedy}")


def read_json(place: StorageBackend, name: str) -> dict[str, Any]:
    """A note of ours. Raises UserError if it is damaged or of another format."""
    try:
        data = place.read(name)
    except FileNotFoundError as error:
        raise UserError(f"{place.shown(name)}: cannot be read ({error})") from error
    return _parse(place, name, data)


def _parse(place: StorageBackend, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{place.shown(name)}: cannot be read ({error}): restore it, or choose another folder"
        ) from error
    if not isinstance(value, dict) or value.get("format", FORMAT) != FORMAT:
        raise UserError(f"{place.shown(name)}: was written by another version of wanbatch: use that one")
    return value


def to_json(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """A note as it is stored."""
    return json.dumps(value, indent=indent, separators=None if indent else (",", ":")).encode()
