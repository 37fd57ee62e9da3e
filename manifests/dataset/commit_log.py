"""Commit records: what counts in an output folder, and the files it consists of.

A commit file holds one record a line; the units of one file were committed together. Records count in the order
of their `seq`. A record may name parts of earlier ones that it replaces, since it decides some of their ids anew, or
removes them; and parts that it withdraws, since they were lost or damaged: ids that are removed, and those of parts
that are withdrawn, are as if they had never been made.

A record that a version cannot count rightly unless it knows a feature says so by its `format`: the lowest one that
has the feature, above `FORMAT`. A version that does not know the format refuses the folder, and reads every folder
without such records.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.committed import Committed
from wanbatch.manifests.dataset.part_files import KINDS, Attempt, is_part
from wanbatch.manifests.storage.backend import StorageBackend

FORMAT = 1
"""Of the files in `_wanbatch/`, and of commit records that do not say: release 0.1.0 reads it."""
FORMAT_OF_REMOVALS = 2
"""Of records with `removed`: a version that skips that counts ids that have left."""
NEWEST_FORMAT = FORMAT_OF_REMOVALS
"""What this version reads is from `FORMAT` up to here; a feature that readers must know adds one."""
COMMITS = "_wanbatch/commits"
FIRST_GROUP = "_wanbatch/first-group.json"
"""Names the units that are published first, until their commit exists: the only time when there are parts and no
commits."""
LISTINGS = 5
"""How often commits are listed if one is gone when it is read: others may look while it is repaired."""

_COMMIT = re.compile(r"\d{5,}\.json")
_NEEDED = {"unit", "ids", "failed", "parts"}


class DamagedError(UserError):
    """A file of `_wanbatch/` that does not hold what it should."""


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
        sha256: of its content, hex; None if its record does not say.
        temporary: where its content may still be waiting to take the part's name, if it was replaced.
    """

    bytes: int
    sha256: str | None
    temporary: str | None = None


@dataclass(frozen=True, slots=True)
class CommitLog:
    """All commit records together.

    Attributes:
        committed: what they hold.
        parts: name -> the part that must be there.
        dropped: names of parts that must not be there.
        records: how many there are.
    """

    committed: Committed
    parts: Mapping[str, Part]
    dropped: frozenset[str]
    records: int


def read_commit_log(backend: StorageBackend) -> CommitLog:
    """Add up all commit records. Raises UserError if one is damaged."""
    committed = Committed()
    parts: dict[str, Part] = {}
    dropped: set[str] = set()
    records = read_commits(backend)
    for record in records:
        committed.add(record)
        for part in record["parts"].values():
            parts[part["name"]] = Part(part["bytes"], part.get("sha256"))
        for name in record.get("withdrawn", ()):
            parts.pop(name, None)
        for new in map(Replacement.from_record, record.get("replaced", ())):
            if parts.pop(new.name, None) is None:
                continue  # the commit of the old part was taken away by hand: what is left of it counts no more
            if new.temporary is None or new.bytes is None:
                dropped.add(new.name)
            else:
                parts[new.name] = Part(new.bytes, new.sha256, new.temporary)
    return CommitLog(committed, parts, frozenset(dropped - parts.keys()), len(records))


def read_commits(backend: StorageBackend) -> list[dict[str, Any]]:
    """All commit records, in the order in which they were committed.

    Raises:
        DamagedError: if one is damaged. OSError: if one cannot be read, or is gone each time they are listed.
    """
    records = []
    ordered = True
    for name, data in read_commit_files(backend):
        lines = data.splitlines()
        if not lines:
            raise _damaged(backend, name, "it is empty")
        for line in lines:
            record = parse_commit(backend, name, line)
            ordered = ordered and not (record.get("replaced") or record.get("withdrawn"))
            records.append(record)
    if not ordered:
        records.sort(key=lambda found: found.get("seq", -1))
    return records


def read_commit_files(backend: StorageBackend) -> list[tuple[str, bytes]]:
    """(name, content) of all commit files, in the order of their numbers.

    A file that is gone between the listing and the reading is nobody's loss if it is not listed again.
    """
    for _ in range(LISTINGS - 1):
        try:
            return _list_and_read_commits(backend)
        except FileNotFoundError:
            continue
    return _list_and_read_commits(backend)


def _list_and_read_commits(backend: StorageBackend) -> list[tuple[str, bytes]]:
    names = [name for name in backend.sizes(COMMITS) if _COMMIT.fullmatch(name.rpartition("/")[2])]
    names.sort(key=lambda name: int(name.rpartition("/")[2][:-5]))
    return list(zip(names, backend.read_all(names), strict=True))


def parse_commit(backend: StorageBackend, name: str, line: bytes) -> dict[str, Any]:
    """One record of a commit file. Raises DamagedError if it is none, UserError if its format is not known."""
    record = _parse(backend, name, line)
    if not record.keys() >= _NEEDED:
        raise _damaged(backend, name, "it is no commit record")
    return record


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


def withdrawal_record(committed: Committed, parts: Iterable[str]) -> dict[str, Any]:
    """The commit record that takes parts, and with them their ids, out of the dataset."""
    return {**_record_without_ids(committed, "repair"), "withdrawn": sorted(parts)}


def columns_record(committed: Committed, replaced: Iterable[Replacement]) -> dict[str, Any]:
    """The commit record that gives parts other columns, and leaves their ids as they are."""
    return {**_record_without_ids(committed, "columns"), "replaced": [new.to_record() for new in replaced]}


def removal_record(committed: Committed, ids: Iterable[str], replaced: Iterable[Replacement]) -> dict[str, Any]:
    """The commit record that takes ids out of the dataset, by parts that are written again without them."""
    record = {"format": FORMAT_OF_REMOVALS, **_record_without_ids(committed, "removal"), "removed": sorted(ids)}
    return {**record, "replaced": [new.to_record() for new in replaced]}


def _record_without_ids(committed: Committed, attempt: str) -> dict[str, Any]:
    return {
        "unit": committed.next_unit,
        "seq": committed.next_seq,
        "attempt": attempt,
        "ids": [],
        "failed": {},
        "parts": {},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_commit(backend: StorageBackend, records: Sequence[Mapping[str, Any]]) -> None:
    """Commit units together. Durable on return. Raises FileExistsError if the first one is committed."""
    backend.write_exclusive(commit_name(record["unit"] for record in records), b"\n".join(map(to_json, records)))


def commit_name(units: Iterable[int]) -> str:
    """The commit file of units that are committed together."""
    return f"{COMMITS}/{min(units):05d}.json"


def published_parts(backend: StorageBackend) -> dict[str, int]:
    """Name relative to the folder -> bytes, of every part that readers see."""
    return {name: size for kind in KINDS for name, size in backend.sizes(kind).items() if is_part(name)}


def ensure_parts_intact(backend: StorageBackend, parts: Mapping[str, Part], found: Mapping[str, int]) -> None:
    """Raises UserError if a part that a commit names is gone or has another size."""
    for name, part in parts.items():
        if found.get(name) != part.bytes:
            state = "is gone" if name not in found else f"has {found[name]} bytes instead of {part.bytes}"
            raise UserError(f"{backend.location(name)}: {state}: restore it, or {_repair(backend)}")


def repair_command(backend: StorageBackend) -> str:
    """What to type to have a folder repaired."""
    return f"wanbatch repair {shlex.quote(backend.root)}"


def _repair(backend: StorageBackend) -> str:
    command = repair_command(backend)
    return f"run `{command}` and then the command of its run again, which makes the rows again that it held"


def _damaged(backend: StorageBackend, name: str, what: object) -> DamagedError:
    remedy = _repair(backend) if name.startswith(COMMITS) else "choose another folder"
    return DamagedError(f"{backend.location(name)}: cannot be read ({what}): restore it, or {remedy}")


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
        raise _damaged(backend, name, error) from error
    form = value.get("format", FORMAT) if isinstance(value, dict) else None
    if isinstance(form, int) and form > NEWEST_FORMAT:
        raise UserError(
            f"{backend.location(name)}: is of format {form}, as newer versions of wanbatch write it, and this one "
            f"reads {NEWEST_FORMAT} at most: use that version or a later one"
        )
    if not isinstance(value, dict) or not isinstance(form, int) or form < FORMAT:
        raise UserError(f"{backend.location(name)}: was written by another version of wanbatch: use that one")
    return value


def to_json(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON as it is stored."""
    return json.dumps(value, indent=indent, separators=None if indent else (",", ":")).encode()
