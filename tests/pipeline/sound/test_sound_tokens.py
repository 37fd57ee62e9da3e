"""Rows with and without sounds in one batch: each has the bits that it has alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from picture_requests import PLAIN, difference, make


@pytest.fixture
def tokens(wan) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, wan.experts[0].text_dim)).astype(np.float32)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_rows_with_and_without_a_sound_share_a_batch_and_keep_their_bits(wan, tokens, guidance):
    plain = replace(PLAIN, guidance=guidance)
    rows = [replace(plain, id="a"), replace(plain, id="b", sound_tokens=tokens), replace(plain, id="c", prompt="x")]
    together = make(wan, *rows)
    for row in rows:
        assert np.array_equal(make(wan, row)[row.id], together[row.id])
    assert not np.array_equal(together["a"], together["b"])


def test_a_sound_of_weight_0_has_the_bits_of_none_and_a_faint_one_is_nearly_padding(wan, tokens):
    heard, quiet, muted = (make(wan, replace(PLAIN, sound_tokens=tokens * much))["a"] for much in (30, 1e-6, 0))
    assert np.array_equal(muted, make(wan, PLAIN)["a"])
    assert difference(muted, quiet) <= 1
    assert difference(muted, heard) > 1
