"""Near-copies: pictures that look the same although their files differ.

Two pictures are near-copies if their colours, scaled to 8x8, are the same but for rounding; or if these are alike and
a perceptual hash (pHash of ImageHash, 64 bits) is, too. The hash alone would not do: drawings on a plain ground often
have hashes alike, and of smooth pictures it changes with the least noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

NEAR_BITS = 10
"""Bits in which the hashes of near-copies differ at most."""

NEAR_COLOURS = 6.0
"""The mean difference of their colours at most, of 255."""

LARGEST_NEAR = 24
"""The largest difference of their colours, of 255: a small object of another kind changes few of them, but much."""

SAME_COLOURS = 8
"""The largest difference of colours, of 255, with which the hash plays no part."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a picture looks like.

    Attributes:
        hash: 64 bits.
        colours: 8x8 pixels, RGB, row by row, a byte each.
    """

    hash: int
    colours: bytes

    def is_near(self, other: Fingerprint) -> bool:
        """Whether two pictures are near-copies of each other."""
        return next(NearCopies([other]).of(self), None) is not None


def fingerprint_of(pixels: np.ndarray) -> Fingerprint:
    """What a picture looks like. pixels: uint8 [rows, columns, 3]."""
    import imagehash

    image = Image.fromarray(pixels)
    bits = imagehash.phash(image).hash.reshape(-1)
    colours = np.asarray(image.resize((8, 8), Image.Resampling.BOX)).tobytes()
    return Fingerprint(int("".join("1" if bit else "0" for bit in bits), 2), colours)


class NearCopies:
    """Finds near-copies among pictures, each by one pass over the hashes of all."""

    def __init__(self, pictures: Sequence[Fingerprint]):
        """pictures: to look among."""
        self._hashes = np.array([one.hash for one in pictures], dtype=np.uint64)
        colours = [np.frombuffer(one.colours, np.uint8).astype(np.int16) for one in pictures]
        self._colours = np.stack(colours) if colours else np.zeros((0, 192), np.int16)
        self._means = self._colours.reshape(-1, 64, 3).mean(axis=1)

    def of(self, picture: Fingerprint) -> Iterator[int]:
        """The places of the pictures that are near-copies of one, in their order."""
        own = np.frombuffer(picture.colours, np.uint8).astype(np.int16)
        mean = own.reshape(64, 3).mean(axis=0)
        likely = np.flatnonzero(np.abs(self._means - mean).max(axis=1) <= max(SAME_COLOURS, 3 * NEAR_COLOURS))
        apart = np.abs(self._colours[likely] - own)
        bits = np.bitwise_count(self._hashes[likely] ^ np.uint64(picture.hash))
        most = apart.max(axis=1, initial=0)
        alike = (bits <= NEAR_BITS) & (apart.mean(axis=1) <= NEAR_COLOURS) & (most <= LARGEST_NEAR)
        return iter(likely[alike | (most <= SAME_COLOURS)].tolist())
