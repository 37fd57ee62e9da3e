"""Which texts and pictures are made while weights are read, and in which order."""

from __future__ import annotations

from dataclasses import replace

from first_use_making import GUIDED, SMALL
from picture_requests import PLAIN, source

from wanbatch.pipeline.core.prompts import ENCODER_LENGTHS, TEXT_LENGTHS, TEXT_TOKENS
from wanbatch.pipeline.first_uses.selection import Example, FirstUse, Size, chosen


def of(size: Size, prompt: str | None = None) -> Example:
    return Example(size, prompt, "")


def test_a_text_of_each_length_and_a_picture_of_each_length_and_size_the_common_ones_first():
    other = replace(SMALL, width=32)
    uses = chosen([(of(SMALL), None, 1), (of(other), None, 1)])
    pictures = [use for use in uses if use.size is not None]
    assert pictures == [FirstUse(length, size) for length in (62, 126, 30, 254, 512) for size in (SMALL, other)]
    assert {use.tokens for use in uses if use.size is None} == set(ENCODER_LENGTHS)
    assert {use.tokens for use in pictures} == set(TEXT_LENGTHS)
    assert uses[:4] == [FirstUse(64), FirstUse(48), *pictures[:2]]  # texts come before pictures of their length
    assert len(uses) == len(set(uses))


def test_the_examples_come_first_and_only_once():
    uses = chosen([(of(SMALL, "x"), 200, 1)])
    assert uses[:2] == [FirstUse(256), FirstUse(254, SMALL)]
    assert len(uses) == len(set(uses)) == len(ENCODER_LENGTHS) + len(TEXT_LENGTHS)


def test_guided_pictures_are_never_shorter_than_their_negative_prompt():
    uses = chosen([(of(GUIDED, "x"), 10, 130)])
    assert uses[:3] == [FirstUse(16), FirstUse(192), FirstUse(254, GUIDED)]
    assert {use.tokens for use in uses if use.size is not None} == {254, 512}
    assert {use.tokens for use in uses if use.size is None} == set(ENCODER_LENGTHS)  # prompts are as long as they are
    unguided = chosen([(of(SMALL, "x"), 10, 130)])
    assert {use.tokens for use in unguided if use.size is not None} == set(TEXT_LENGTHS)


def test_whatever_length_a_prompt_has_is_among_the_chosen():
    uses = chosen([(of(SMALL), None, 1)])
    for tokens in range(1, TEXT_TOKENS + 1):
        assert FirstUse(next(one for one in ENCODER_LENGTHS if one >= tokens)) in uses
        assert FirstUse(next(one for one in TEXT_LENGTHS if one >= tokens), SMALL) in uses


def test_requests_say_what_they_are_examples_of():
    request = replace(PLAIN, guidance=1.0, sources=(source(1),))
    assert Example.of(request).size == Size(64, 64, guided=False, has_source=True)
    assert Example.of(PLAIN).size == Size(64, 64, guided=True, has_source=False)
