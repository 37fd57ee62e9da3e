"""Prompts of the lengths that people write, for measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WORDS = ("red", "heart", "castle", "yellow", "star", "dog", "under", "a", "green", "tree", "striped", "purple")


def mixed_words(count: int) -> list[int]:
    """Words of prompts as people write them: most are short, some are long, a few fill what the model reads."""
    drawn = np.random.default_rng(0).normal(3.4, 0.7, count)
    return np.clip(np.exp(drawn), 2, 380).astype(int).tolist()


def prompts_of(words: list[int]) -> Iterator[str]:
    """A prompt of each number of words, always the same ones."""
    draw = np.random.default_rng(1)
    return (" ".join(draw.choice(WORDS, count)) for count in words)
