"""What messages suggest in place of a word or a size that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SIZE_STEP = 32
"""Sides that are a multiple of this go with every model; some take multiples of 16 too."""
LARGEST_SIDE = 4096

CUTOFF = 0.7  # likeness of words from 0 to 1; with less, `tpu` is taken for `cpu`


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like another, whatever its case; None if none is."""
    spelled = {_plain(one): one for one in reversed(list(known))}  # the first of two that look alike
    found = get_close_matches(_plain(word), spelled, 1, CUTOFF)
    return spelled[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: `; did you mean ...?`, or nothing."""
    found = closest(word, known)
    return f"; did you mean {found}?" if found else ""


def nearest_sides(pixels: float) -> str:
    """The sides of a picture next to a wanted one that every model makes, in words."""
    below = int(pixels // SIZE_STEP * SIZE_STEP)
    sides = sorted({min(max(side, SIZE_STEP), LARGEST_SIDE) for side in (below, below + SIZE_STEP)})
    return f"every model takes {' and '.join(map(str, sides))}"


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_").replace("+", "p")
