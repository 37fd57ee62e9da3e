"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from wanbatch.counting import made_and_failed, number_of


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


@pytest.mark.parametrize(
    ("made", "failed", "words"),
    [(3, 1, "3 images and 1 failed row"), (1, 0, "1 image"), (0, 2, "2 failed rows"), (0, 0, "0 images")],
)
def test_failed_rows_are_not_counted_as_pictures(made, failed, words):
    assert made_and_failed(made, failed, "images") == words
