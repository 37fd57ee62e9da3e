"""What the commit records of a folder add up to: the ids that are made, those that failed, and the units of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

_DIGESTED = ("unit", "seq", "parts", "replaced", "withdrawn")  # of a commit record: what tells one state from another


def part_name(kind: str, unit: int) -> str:
    """Where readers find a unit's part."""
    return f"{kind}/part-{unit:05d}.parquet"


def part_of(name: str) -> tuple[str, int]:
    """The kind and the unit of a part's name."""
    kind, _, file = name.partition("/")
    return kind, int(file.partition("-")[2].partition(".")[0])


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
        self._highest_number = -1
        self._seq = -1
        self._digest = 0

    @property
    def content_digest(self) -> str:
        """32 hex digits that differ wherever the parts do, whatever the order in which the records were added."""
        return f"{self._digest:032x}"

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
        """The lowest number above those of all commit records."""
        return self._highest_number + 1

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a commit record. What it says of an id holds, whatever earlier ones said."""
        told = json.dumps([record.get(name) for name in _DIGESTED], sort_keys=True).encode()
        self._digest = (self._digest + int(hashlib.sha256(told).hexdigest()[:32], 16)) % 2**128
        self._forget(record.get("removed", ()))
        made: Sequence[str] = record["ids"]
        failed: Mapping[str, str] = record["failed"]
        digests = record.get("digests") or [None] * (len(made) + len(failed))
        unit = record["unit"]
        self._highest_number = max(self._highest_number, unit)
        if (withdrawn := record.get("withdrawn")) is not None:
            self._forget(self.ids_in(withdrawn))
        elif record["parts"]:
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

    def ids_in(self, parts: Iterable[str]) -> list[str]:
        """The ids that these parts hold."""
        wanted = {part_of(name) for name in parts}
        kinds = (("failures",), ("data", "timings"))
        return [
            name
            for name, unit in self._unit_of.items()
            if any((kind, unit) in wanted for kind in kinds[name not in self._failed])
        ]

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._made.pop(name, None)
            self._failed.pop(name, None)
            self._unit_of.pop(name, None)
