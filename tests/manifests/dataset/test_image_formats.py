"""Formats of images: what each keeps of the pixels, and what it refuses."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from wanbatch.manifests.dataset.image_formats import SUFFIXES, ImageFormat

Y, X = np.mgrid[:48, :80]
PIXELS = np.stack([X * 3, Y * 5, (X + Y) * 2], axis=-1).astype(np.uint8)


def decoded(how: ImageFormat) -> tuple[np.ndarray, str]:
    image = Image.open(io.BytesIO(how.encode(PIXELS)))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int), image.format


@pytest.mark.parametrize("name", ["png", "webp"])
def test_nothing_is_lost_without_a_quality(name):
    pixels, kind = decoded(ImageFormat(name))
    assert np.array_equal(pixels, PIXELS)
    assert kind == name.upper()
    assert not ImageFormat(name).lossy


@pytest.mark.parametrize("how", [ImageFormat("jpeg"), ImageFormat("jpeg", 60), ImageFormat("webp", 80)])
def test_lossy_formats_are_near_and_say_so(how):
    pixels, kind = decoded(how)
    error = np.abs(pixels - PIXELS)
    assert kind == how.name.upper()
    assert how.lossy
    assert 0 < error.max() < 40
    assert error.mean() < 4


def test_a_higher_quality_is_nearer_and_larger():
    low, high = (ImageFormat("jpeg", quality) for quality in (50, 95))
    assert np.abs(decoded(high)[0] - PIXELS).mean() < np.abs(decoded(low)[0] - PIXELS).mean()
    assert len(high.encode(PIXELS)) > len(low.encode(PIXELS))
    assert ImageFormat("jpeg", 95).encode(PIXELS) == ImageFormat("jpeg").encode(PIXELS)


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_same_pixels_give_the_same_bytes(name):
    assert ImageFormat(name).encode(PIXELS) == ImageFormat(name).encode(PIXELS.copy())


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="known: png, webp, jpeg"):
        ImageFormat("gif")
    with pytest.raises(ValueError, match="PNG loses nothing"):
        ImageFormat("png", 90)
