"""What is kept in memory of limited size, for several threads: by least recent use, except what somebody holds.

No torch. What is kept may be anything that takes a while to make; it is made outside the lock, once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class _Place(Generic[V]):
    """Memory for one thing.

    Attributes:
        size: Of the thing.
        values: The thing; empty while it is made.
        holders: Who needs it to stay.
    """

    size: int
    values: list[V] = field(default_factory=list)
    holders: set[Hashable] = field(default_factory=set)


@dataclass(slots=True)
class _Want:
    """What somebody needs: its size, and how often it will be used."""

    size: int
    uses: int


class Residents(Generic[K, V]):
    """Things by key, as many as there is room for. All methods may be called by any thread at any time.

    Args:
        capacity: How much is kept; sizes are counted in the same unit. More is there only if what is held and the
            last thing that was asked for, or things that are being made, have no room together.
        held_capacity: How much of it may be held.
    """

    def __init__(self, capacity: int, held_capacity: int):
        self._capacity, self._held_capacity = capacity, held_capacity
        self._places: OrderedDict[K, _Place[V]] = OrderedDict()  # least recently used first
        self._wants: OrderedDict[Hashable, OrderedDict[K, _Want]] = OrderedDict()  # by holder, the first one first
        self._changed = threading.Condition()

    @property
    def keys(self) -> list[K]:
        """Of all that is there or being made, least recently used first."""
        with self._changed:
            return list(self._places)

    @property
    def held(self) -> set[K]:
        """Keys of what somebody holds."""
        with self._changed:
            return {key for key, place in self._places.items() if place.holders}

    @property
    def wanted(self) -> bool:
        """Whether anybody wants anything, held or not."""
        with self._changed:
            return any(self._wants.values())

    @property
    def size(self) -> int:
        """Of all that is there or being made."""
        with self._changed:
            return self._size()

    def get(self, key: K, size: int, make: Callable[[], V]) -> V:
        """What has this key, made now unless it is there. If another thread is making it, this one waits.

        Args:
            key: Whose.
            size: That it has or will have.
            make: Makes it. What it raises is raised here, and nothing is kept.
        """
        with self._changed:
            while (place := self._places.get(key)) is not None and not place.values:
                self._changed.wait()
            if place is not None:
                self._places.move_to_end(key)
                return place.values[0]
            place = self._put(key, size)
        return self._made(key, place, make)

    def want(self, holder: Hashable, wanted: Iterable[tuple[K, int, int]]) -> None:
        """Say what somebody will need. `fetch` has it there and held, until it was used as often or is released.

        Args:
            holder: Who needs it. What others wanted before is more urgent.
            wanted: Keys, sizes, and how often each will be used; the most urgent first.
        """
        with self._changed:
            mine = self._wants.setdefault(holder, OrderedDict())
            for key, size, uses in wanted:
                before = mine.get(key)
                mine[key] = _Want(size, uses + (before.uses if before else 0))

    def fetch(self, make: Callable[[K], V]) -> None:
        """Make and hold what is wanted, as far as it has room. What has none is passed over until a later call.

        Nothing that is held leaves for it. For one thread at a time.

        Args:
            make: Makes what is not there. What it raises is raised here, and what it was to make is wanted no more.
        """
        while (found := self._next_to_make()) is not None:
            key, place = found
            try:
                self._made(key, place, lambda key=key: make(key))  # type: ignore[misc]
            except BaseException:
                with self._changed:
                    for wants in self._wants.values():
                        wants.pop(key, None)
                raise

    def used(self, holder: Hashable, key: K, before: Iterable[K] = ()) -> None:
        """Say that something was used once, for somebody who has wanted it; others may still hold it.

        Args:
            holder: Who wanted it.
            key: Of what was used.
            before: Keys of what each user of this one used earlier, if at all: from now on the same holder wants none
                of these more often than this one.
        """
        with self._changed:
            wants = self._wants.get(holder)
            if wants is not None and (want := wants.get(key)) is not None:
                self._limit(holder, key, want.uses - 1)
                for earlier in before:
                    self._limit(holder, earlier, want.uses)
                self._make_room(None)  # more may be there than has room: all else was held when it came

    def release(self, holder: Hashable) -> None:
        """Hold nothing for somebody any more, and forget what was wanted. What was held may leave from now on."""
        with self._changed:
            for key in self._wants.pop(holder, ()):
                self._let_go(holder, key)
            self._make_room(None)

    def want_nothing(self) -> None:
        """Forget what anybody wants. What was held stays, but may leave from now on."""
        with self._changed:
            self._forget()
            self._make_room(None)

    def clear(self) -> int:
        """Let go of all that is there, held or not, and forget what anybody wants; returns the size of what left.

        What is being made is kept once it is there.
        """
        with self._changed:
            self._forget()
            gone = [key for key, place in self._places.items() if place.values]
            return sum(self._places.pop(key).size for key in gone)

    def _forget(self) -> None:
        self._wants.clear()
        for place in self._places.values():
            place.holders.clear()

    def _limit(self, holder: Hashable, key: K, uses: int) -> None:
        """Somebody uses something no more often than this."""
        wants = self._wants[holder]
        if (want := wants.get(key)) is None:
            return
        want.uses = min(want.uses, uses)
        if want.uses <= 0:
            del wants[key]
            self._let_go(holder, key)

    def _let_go(self, holder: Hashable, key: K) -> None:
        if (place := self._places.get(key)) is not None:
            place.holders.discard(holder)

    def _next_to_make(self) -> tuple[K, _Place[V]] | None:
        """Hold all wanted things that are there and may be held, up to the first that is to be made."""
        with self._changed:
            for holder, wants in self._wants.items():
                for key, want in wants.items():
                    place = self._places.get(key)
                    if place is not None and holder in place.holders:
                        continue
                    held = sum(other.size for other in self._places.values() if other.holders and other is not place)
                    if held + want.size > self._held_capacity:
                        continue
                    if place is None:
                        place = self._put(key, want.size)
                        place.holders.add(holder)
                        return key, place
                    place.holders.add(holder)
        return None

    def _put(self, key: K, size: int) -> _Place[V]:
        """Take room for something that is to be made."""
        place = self._places[key] = _Place(size)
        self._make_room(place)
        return place

    def _make_room(self, coming: _Place[V] | None) -> None:
        """Let go of what was not used for longest, until the rest has room; the last one that is left stays."""
        size = self._size()
        for key, place in list(self._places.items())[: None if coming is not None else -1]:
            if size <= self._capacity:
                break
            if place is not coming and place.values and not place.holders:
                del self._places[key]
                size -= place.size

    def _made(self, key: K, place: _Place[V], make: Callable[[], V]) -> V:
        """Make what a place is for, without the lock."""
        try:
            value = make()
        except BaseException:
            with self._changed:
                del self._places[key]
                self._changed.notify_all()
            raise
        with self._changed:
            place.values.append(value)
            self._changed.notify_all()
        return value

    def _size(self) -> int:
        return sum(place.size for place in self._places.values())
