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
        st.tuples(st.just("hold"), st.integers(0, 2), st.lists(st.sampled_from(KEYS), max_size=4, unique=True)),
        st.tuples(st.just("release"), st.integers(0, 2)),
    ),
    max_size=30,
)


def with_sizes(keys) -> list[tuple[str, int]]:
    return [(key, SIZES[key]) for key in keys]


class Watched:
    """Residents, and what is seen of them from outside: when each key was used, who was promised that it stays."""

    def __init__(self) -> None:
        self.residents: Residents[str, tuple[str, int]] = Residents(CAPACITY, HELD)
        self.made, self.clock = count(), count()
        self.there: dict[str, tuple[str, int]] = {}
        self.used: dict[str, int] = {}
        self.promised: dict[int, set[str]] = {}

    def make(self, key: str) -> tuple[str, int]:
        assert key not in self.residents.held or key not in self.there  # what is there and held is not made again
        self.there[key] = key, next(self.made)
        self.used[key] = next(self.clock)
        return self.there[key]

    def get(self, key: str) -> None:
        was = self.there.get(key) if key in self.residents.keys else None
        got = self.residents.get(key, SIZES[key], lambda: self.make(key))
        assert got == self.there[key]
        assert was is None or got is was
        self.used[key] = next(self.clock)
        assert key in self.residents.keys
        self.check(last=key)

    def hold(self, holder: int, keys: list[str]) -> None:
        for key in keys:
            if key in self.residents.keys:
                self.used[key] = next(self.clock)
            before = self.residents.held
            self.residents.hold(holder, with_sizes([key]), self.make)
            others = sum(SIZES[other] for other in before - {key})
            assert (key in self.residents.held) == (key in before or others + SIZES[key] <= HELD)
            if others + SIZES[key] <= HELD:
                self.promised.setdefault(holder, set()).add(key)
            self.check(last=None)

    def release(self, holder: int) -> None:
        self.residents.release(holder)
        self.promised.pop(holder, None)
        self.check(last=None)

    def check(self, last: str | None) -> None:
        here, held = self.residents.keys, self.residents.held
        assert held == set().union(*self.promised.values())
        assert held <= set(here)
        assert sum(SIZES[key] for key in held) <= HELD
        assert here == sorted(here, key=self.used.__getitem__)
        free = [key for key in here if key not in held]
        assert self.residents.size == sum(SIZES[key] for key in here)
        assert self.residents.size <= CAPACITY or len(free) <= 1
        for gone in set(self.there) - set(here):
            assert all(self.used[gone] < self.used[key] for key in free if key != last)
            del self.there[gone]


@settings(deadline=None, max_examples=300)
@given(OPERATIONS)
def test_what_is_held_stays_and_what_was_not_used_for_longest_leaves(operations):
    watched = Watched()
    for name, *given_values in operations:
        getattr(watched, name)(*given_values)


def test_what_is_held_first_leaves_room_for_what_fits_after_it():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.hold("unit", with_sizes("dbca"), str.upper)  # 4 + 2, then neither 3 nor 1
    assert (residents.keys, residents.held) == (["d", "b"], {"d", "b"})
    residents.hold("next", with_sizes("ad"), str.upper)
    assert residents.held == {"d", "b"}
    residents.release("unit")
    assert residents.held == {"d"}  # the next one holds it, too


def test_more_than_fits_comes_and_goes_without_what_is_held():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    residents.hold("unit", with_sizes("e"), str.upper)
    made = []
    for key in "abcdabcd":
        residents.get(key, SIZES[key], lambda key=key: made.append(key) or key)
    assert "e" in residents.keys
    assert residents.get("e", 5, lambda: pytest.fail("made again")) == "E"


def test_a_thread_waits_for_what_another_one_is_making():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(key: str) -> str:
        begun.set()
        assert go_on.wait(60)
        return key.upper()

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(residents.hold, "unit", with_sizes("a"), slowly)
        assert begun.wait(60)
        got = threads.submit(residents.get, "a", 1, lambda: pytest.fail("made twice"))
        assert residents.get("b", 2, lambda: "B") == "B"  # others do not wait
        assert not got.done()
        go_on.set()
        assert got.result(60) == "A"
        holding.result(60)


def test_what_could_not_be_made_is_made_by_who_waited_for_it():
    residents: Residents[str, str] = Residents(CAPACITY, HELD)
    begun, go_on = threading.Event(), threading.Event()

    def fails(key: str) -> str:
        begun.set()
        assert go_on.wait(60)
        raise RuntimeError("no memory")

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(residents.hold, "unit", with_sizes("a"), fails)
        assert begun.wait(60)
        got = threads.submit(residents.get, "a", 1, lambda: "A")
        go_on.set()
        assert got.result(60) == "A"
        with pytest.raises(RuntimeError, match="no memory"):
            holding.result(60)
    assert residents.held == set()
    assert residents.size == 1


@pytest.fixture
def often_switched():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("seed", "failing"), [(0, 0.0), (1, 0.0), (2, 0.05), (3, 0.3)])
def test_two_threads_that_hold_and_get_at_random(seed, failing, often_switched):
    """As a worker has it: one thread prepares units, which are released by the other, once it has made their rows."""
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

    def prepare(chosen: np.random.Generator, unit: int) -> list[str]:
        keys = [KEYS[index] for index in chosen.permutation(len(KEYS))[: chosen.integers(1, 5)]]
        with suppress(RuntimeError):
            residents.hold(unit, with_sizes(keys), make)
        return keys

    def use(chosen: np.random.Generator, unit: int, keys: list[str]) -> None:
        held = {key for key in keys if key in residents.held}  # until this thread releases it
        for key in [*keys, KEYS[chosen.integers(len(KEYS))]]:
            try:
                got, again = (residents.get(key, SIZES[key], lambda key=key: make(key)) for _ in range(2))
            except RuntimeError:
                continue
            assert got[0] == again[0] == key
            assert got is again or failing or key not in held
        residents.release(unit)

    chosen, others = np.random.default_rng(seed), np.random.default_rng(seed + 50)
    with ThreadPoolExecutor(1) as prepares, ThreadPoolExecutor(1) as generates:
        waiting = [prepares.submit(prepare, chosen, unit) for unit in range(300)]
        done = [
            generates.submit(lambda unit=unit, keys=keys: use(others, unit, keys.result(60)))
            for unit, keys in enumerate(waiting)
        ]
        for one in done:
            one.result(60)
    assert residents.held == set()
    assert residents.size <= CAPACITY
