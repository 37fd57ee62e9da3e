"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from wanbatch.counting import number_of


@pytest.mark.parametrize(
    ("number", "things", "words"),
    [(1, "rows", "1 row"), (0, "rows", "0 rows"), (2, "rows", "2 rows"), (1, "entries", "1 entry")],
)
def test_one_thing_is_in_the_singular(number, things, words):
    assert number_of(number, things) == words
