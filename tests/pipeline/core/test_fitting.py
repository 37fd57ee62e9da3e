"""Sources of every size are scaled to cover an image; rounding leads over no edge."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from wanbatch.pipeline.core.requests import fit, fitted_part

SIZES = [(128, 128), (144, 112), (100, 75), (1280, 704)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_part_that_is_kept_is_inside_for_every_size(width, height):
    for columns, rows in product(range(1, 400, 12), range(1, 400, 12)):
        left, top, right, bottom = fitted_part(columns, rows, width, height)
        assert 0 <= left < right <= columns, (columns, rows)
        assert 0 <= top < bottom <= rows, (columns, rows)
        assert (right - left) * height == pytest.approx((bottom - top) * width)
        assert left + right == pytest.approx(columns)
        assert top + bottom == pytest.approx(rows)


@pytest.mark.parametrize(("columns", "rows"), [(49, 49), (49, 64), (1, 1), (7, 5), (900, 60)])
def test_a_source_of_one_colour_stays_it(columns, rows):
    pixels = np.full((rows, columns, 3), (10, 200, 30), np.uint8)
    fitted = fit(pixels, 128, 128)
    assert fitted.shape == (128, 128, 3)
    assert (fitted == (10, 200, 30)).all()
