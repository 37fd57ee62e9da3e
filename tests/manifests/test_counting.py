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


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1 class is"), (2, "2 classes are"), (1.0, "1 class is"), (1.5, "1.5 classes are"), (0, "0 classes are")],
)
def test_what_follows_agrees_with_the_number(number, words):
    assert number_of(number, "classes", "is", "are") == words
