"""How pictures came to be, in the terms of the IPTC."""

from __future__ import annotations

import io

import numpy as np
import pytest
from manifest_making import encoded

from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.digital_source import ALTERED, COMPOSITE, GENERATED, SYNTHETIC, term_in_file, term_of


@pytest.mark.parametrize(
    ("creativity", "sources", "term"),
    [
        (1.0, [], GENERATED),
        (1.0, [None], GENERATED),  # the source plays no part
        (0.6, [None], COMPOSITE),
        (0.6, [GENERATED], COMPOSITE),
        (0.0, [None], ALTERED),
        (0.0, ["digitalCapture"], ALTERED),
        (0.0, [GENERATED], GENERATED),  # what was synthetic stays so
        (0.0, [COMPOSITE], COMPOSITE),
        (0.0, [None, None], COMPOSITE),  # a blend
    ],
)
def test_the_term_follows_from_creativity_and_sources(creativity, sources, term):
    assert term_of(creativity, sources) == term


def test_one_kept_source_alone_is_not_synthetic():
    assert {GENERATED, COMPOSITE} <= SYNTHETIC
    assert ALTERED not in SYNTHETIC


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_the_term_of_a_file_is_found_in_its_mark(name):
    data = ImageFormat(name).encode(np.zeros((8, 8, 3), np.uint8), OriginMark(COMPOSITE, "t").metadata("00"))
    assert term_in_file(data) == COMPOSITE
    assert term_in_file(encoded(kind=name.upper())) is None


def test_of_several_terms_the_synthetic_one_counts():
    photo, made = (OriginMark(term, "t").metadata("00").xmp for term in ("digitalCapture", GENERATED))
    buffer = io.BytesIO(photo + made)
    assert term_in_file(buffer.getvalue()) == GENERATED
    assert term_in_file(photo) == "digitalCapture"
