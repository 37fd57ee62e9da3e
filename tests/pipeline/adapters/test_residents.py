"""What is kept in limited memory: who leaves, who stays, and that two threads never make or wait amiss."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanbatch.pipeline.adapters.residents import Residents

KEYS = "abcdef"
SIZES = dict(zip(KEYS, (1, 2, 3, 4, 5, 9), strict=True))
CAPACITY, HELD = 10, 6

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.sampled_from(KEYS)),
        st.tuples(
            st.just("want"),
            st.integers(0, 2),
            st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 2)), max_size=4, unique_by=lambda each: each[0]),
        ),
        st.tuples(st.just("fetch")),
        st.tuples(st.just("use"), st.integers(0, 2), st.sampled_from(KEYS)),
        st.tuples(st.just("release"), st.integers(0, 2)),
        st.tuples(st.just("want_nothing")),
        st.tuples(st.just("clear")),
    ),
    max_size=40,
)


def with_sizes(*keys: str, uses: int = 1) -> list[tuple[str, int, int]]:
    return [(key, SIZES[key], uses) for key in keys]


class Watched:
    """Residents, and what is seen of them from outside: when each key was used, who still wants what."""

    def __init__(self) -> None:
        self.residents: Residents[str, tuple[str, int]] = Residents(CAPACITY, HELD)
        self.made, self.clock = count(), count()
        self.there: dict[str, tuple[str, int]] = {}
        self.used: dict[str, int] = {}
        self.wants: dict[int, dict[str, int]] = {}

    def make(self, key: str) -> tuple[str, int]:
        self.forget_those_that_left(last=None)
        assert key not in self.there
        self.there[key] = key, next(self.made)
        self.used[key] = next(self.clock)
        return self.there[key]

    def get(self, key: str) -> None:
        was = self.there.get(key)
        got = self.residents.get(key, SIZES[key], lambda: self.make(key))
        assert got is self.there[key]
        assert was is None or got is was
        self.used[key] = next(self.clock)
        self.check(last=key)

    def want(self, holder: int, keys: list[tuple[str, int]]) -> None:
        self.residents.want(holder, [(key, SIZES[key], uses) for key, uses in keys])
        mine = self.wants.setdefault(holder, {})
        for key, uses in keys:
            mine[key] = mine.get(key, 0) + uses
        self.check(last=None)

    def fetch(self) -> None:
        before = self.residents.held
        self.residents.fetch(self.make)
        self.check(last=None)
        assert before <= self.residents.held
        room = HELD - sum(SIZES[key] for key in self.residents.held)
        left = {key for wants in self.wants.values() for key in wants} - self.residents.held
        assert all(SIZES[key] > room for key in left)

    def use(self, holder: int, key: str) -> None:
        mine = self.wants.get(holder, {})
        kept = self.residents.held - {key}
        self.residents.used(holder, key)
        if key in mine:
            mine[key] -= 1
            if not mine[key]:
                del mine[key]
        assert self.residents.held - {key} == kept
        self.check(last=None)

    def release(self, holder: int) -> None:
        self.residents.release(holder)
        self.wants.pop(holder, None)
        self.check(last=None)

    def want_nothing(self) -> None:
        self.residents.want_nothing()
        self.wants.clear()
        assert self.residents.held == set()
        self.check(last=None)

    def clear(self) -> None:
        here = self.residents.size
        assert self.residents.clear() == here
        assert self.residents.keys == []
        self.wants.clear()
        self.there.clear()
        self.check(last=None)

    def check(self, last: str | None) -> None:
        here, held = self.residents.keys, self.residents.held
        wanted = {key for wants in self.wants.values() for key in wants}
        assert held <= wanted & set(here)
        assert self.residents.wanted == bool(wanted)
        assert sum(SIZES[key] for key in held) <= HELD
        assert here == sorted(here, key=self.used.__getitem__)
        assert self.residents.size == sum(SIZES[key] for key in here)
        assert self.residents.size <= CAPACITY or len(set(here) - held) <= 1
        self.forget_those_that_left(last)

    def forget_those_that_left(self, last: str | None) -> None:
        """`last`: what came last, which was used after they had left."""
        here, held = self.residents.keys, self.residents.held
        for gone in set(self.there) - set(here):
            stayed = [key for key in here if key in self.there and key not in held and key != last]
            assert all(self.used[gone] < self.used[key] for key in stayed)
            del self.there[gone]


@settings(deadline=None, max_examples=400)
@given(OPERATIONS)
def test_what_is_wanted_is_held_while_it_has_room_and_what_was_not_used_for_longest_leaves(operations):
    watched = Watched()
    for name, *given_values in operations:
        getattr(watched, name)(*given_values)


def test_what_is_wanted_first_is_held_first_and_leaves_room_for_what_fits_after_it():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", with_sizes("d", "b", "c", "a"))  # 4 + 2, then neither 3 nor 1
    residents.want("next", with_sizes("a", "d"))
    residents.fetch(str.upper)
    assert set(residents.keys) == residents.held == {"d", "b"}
    residents.used("unit", "b")
    residents.fetch(str.upper)
    assert residents.held == {"d", "a"}  # in place of 2, not 3
    residents.release("unit")
    assert residents.held == {"a", "d"}  # for the next one
    residents.used("next", "d")
    assert residents.held == {"a"}


def test_what_was_held_leaves_with_its_last_use_if_more_is_there_than_has_room():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", with_sizes("a", "b"))
    residents.fetch(str.upper)
    residents.get("f", SIZES["f"], lambda: "F")
    assert residents.keys == ["a", "b", "f"]  # 12 of 10, and neither of the first two may leave
    residents.used("unit", "a")
    assert residents.keys == ["b", "f"]
    residents.used("unit", "b")
    assert residents.keys == ["f"]


def test_what_will_be_used_often_is_held_until_it_was():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", with_sizes("a", uses=3))
    residents.fetch(str.upper)
    for _ in range(2):
        residents.used("unit", "a")
        assert residents.held == {"a"}
    residents.used("unit", "a")
    assert (residents.held, residents.wanted) == (set(), False)
    residents.used("other", "a")  # by somebody who did not want it before
    assert residents.keys == ["a"]


def test_what_was_used_before_something_is_wanted_no_more_often_than_that():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", [("a", 1, 3), ("b", 2, 3), ("c", 3, 1)])
    residents.want("next", [("a", 1, 1)])
    residents.fetch(str.upper)
    assert residents.held == {"a", "b", "c"}
    for held in ({"a", "b", "c"}, {"a", "b", "c"}, {"a", "c"}):  # "a" for the next one
        residents.used("unit", "b", before=["a", "e"])
        assert residents.held == held
    residents.used("unit", "c", before=["a"])
    assert residents.held == {"a"}
    residents.used("unit", "a")  # once more than it said: that is not the next one's
    assert residents.held == {"a"}
    residents.used("next", "a")
    assert (residents.held, residents.wanted) == (set(), False)


def test_more_than_fits_comes_and_goes_without_what_is_held():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", with_sizes("e"))
    residents.fetch(str.upper)
    for key in "abcdabcd":
        residents.get(key, SIZES[key], lambda key=key: key)
    assert "e" in residents.keys
    assert residents.get("e", 5, lambda: pytest.fail("made again")) == "E"


def test_a_thread_waits_for_what_another_one_is_making():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", with_sizes("a"))
    begun, go_on = threading.Event(), threading.Event()

    def slowly(key: str) -> str:
        begun.set()
        assert go_on.wait(60)
        return key.upper()

    with ThreadPoolExecutor(2) as threads:
        fetching = threads.submit(residents.fetch, slowly)
        assert begun.wait(60)
        got = threads.submit(residents.get, "a", 1, lambda: pytest.fail("made twice"))
        assert residents.get("b", 2, lambda: "B") == "B"  # others do not wait
        assert not got.done()
        go_on.set()
        assert got.result(60) == "A"
        fetching.result(60)


def test_what_is_being_made_while_all_others_leave_is_there_afterwards_for_nobody():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.get("b", 2, lambda: "B")
    residents.want("unit", with_sizes("a", "c"))

    def leave(key: str) -> str:
        assert residents.clear() == 2
        return key.upper()

    residents.fetch(leave)
    assert (residents.keys, residents.held, residents.wanted) == (["a"], set(), False)
    assert residents.get("a", 1, lambda: pytest.fail("made again")) == "A"


def test_what_could_not_be_made_is_made_by_who_waited_for_it():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.want("unit", with_sizes("a", "b"))
    begun, go_on = threading.Event(), threading.Event()

    def fails(key: str) -> str:
        begun.set()
        assert go_on.wait(60)
        raise RuntimeError("no memory")

    with ThreadPoolExecutor(2) as threads:
        fetching = threads.submit(residents.fetch, fails)
        assert begun.wait(60)
        got = threads.submit(residents.get, "a", 1, lambda: "A")
        go_on.set()
        assert got.result(60) == "A"
        with pytest.raises(RuntimeError, match="no memory"):
            fetching.result(60)
    assert residents.held == set()
    residents.fetch(str.upper)  # the first one is not tried again, the other one is
    assert residents.held == {"b"}


@pytest.fixture
def often_switched():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("seed", "failing"), [(0, 0.0), (1, 0.0), (2, 0.05), (3, 0.3)])
def test_threads_that_want_fetch_and_get_at_random(seed, failing, often_switched):
    """As a worker has it: one thread prepares units, one fetches, and one uses what the units' rows need."""
    residents: Residents[str, tuple[str, int]] = Residents(CAPACITY, HELD)
    making: set[str] = set()
    made, failures = count(), np.random.default_rng(seed + 100)

    def make(key: str) -> tuple[str, int]:
        assert key not in making
        making.add(key)
        number = next(made)
        making.discard(key)
        if failures.random() < failing:
            raise RuntimeError("no memory")
        return key, number

    def fetch() -> None:
        with suppress(RuntimeError):
            residents.fetch(make)

    def prepare(chosen: np.random.Generator, unit: int) -> list[str]:
        keys = [KEYS[index] for index in chosen.permutation(len(KEYS))[: chosen.integers(1, 5)]]
        residents.want(unit, with_sizes(*keys))
        fetching.submit(fetch)
        return keys

    def use(chosen: np.random.Generator, unit: int, keys: list[str]) -> None:
        for key in [*keys, KEYS[chosen.integers(len(KEYS))]]:
            held = key in residents.held  # for this unit or another one that is here until this thread releases it
            try:
                got, again = (residents.get(key, SIZES[key], lambda key=key: make(key)) for _ in range(2))
            except RuntimeError:
                continue
            assert got[0] == again[0] == key
            assert got is again or failing or not held
            residents.used(unit, key)
            fetching.submit(fetch)
        residents.release(unit)

    chosen, others = np.random.default_rng(seed), np.random.default_rng(seed + 50)
    with ThreadPoolExecutor(1) as fetching, ThreadPoolExecutor(1) as prepares, ThreadPoolExecutor(1) as generates:
        waiting = [prepares.submit(prepare, chosen, unit) for unit in range(300)]
        done = [
            generates.submit(lambda unit=unit, keys=keys: use(others, unit, keys.result(60)))
            for unit, keys in enumerate(waiting)
        ]
        for one in done:
            one.result(60)
    assert (residents.held, residents.wanted) == (set(), False)
    assert residents.size <= CAPACITY
