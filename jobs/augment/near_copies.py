"""Near-copies: pictures that look the same although their files differ.

Two pictures are near-copies if their colours, scaled to 8x8, are the same but for rounding; or if these are alike and
a perceptual hash (pHash of ImageHash, 64 bits) is, too. The hash alone would not do: drawings on a plain ground often
have hashes alike, and of smooth pictures it changes with the least noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from wanbatch.jobs.augment.near_index import SAMPLE, ColourCells, HashBands, telling_colours

NEAR_BITS = 10
"""Bits in which the hashes of near-copies differ at most."""

NEAR_COLOURS = 6.0
"""The mean difference of their colours at most, of 255."""

LARGEST_NEAR = 24
"""The largest difference of their colours, of 255: a small object of another kind changes few of them, but much."""

SAME_COLOURS = 8
"""The largest difference of colours, of 255, with which the hash plays no part."""


COLOURS = 8 * 8 * 3
"""Values of a picture's colours."""

MOST_APART = int(max(SAME_COLOURS, NEAR_COLOURS) * COLOURS)
"""By how much the sums of the colours of near-copies differ at most."""

FEW = 4096
"""Pictures among which nothing is looked up: each is compared with all."""

FIRST = 16
"""Pictures that are looked up and compared at once at first, as the first one is often what is asked for."""

MOST_AT_ONCE = 1 << 16
"""Pictures that one is compared with at once, so that memory is bounded."""

WIDE = 4096
"""Pictures with nearly the same quarters of a hash from which on their colours may tell them apart sooner."""

WORTH_WHILE = 8
"""Looking up is for one picture in so many: it takes about as many times as long as comparing in order."""


READ = 4096
"""Pictures whose colours are read at a time."""


class Colours(Protocol):
    """The colours of many pictures, in memory or elsewhere, uint8 [pictures, `COLOURS`]."""

    def __getitem__(self, places: slice | np.ndarray, /) -> np.ndarray:
        """Those of the pictures at some places, uint8 [N, `COLOURS`]."""


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
    """Finds near-copies among pictures.

    Of many pictures each is compared with few: those whose hash has a quarter that is nearly the same, or those whose
    colours are in the same cell or in one beside it, whichever are fewer (`near_index.py`). What is found is what a
    comparison with all finds. Where so many may be alike that looking them up takes as long, all are compared, the
    first ones first.
    """

    def __init__(self, pictures: Sequence[Fingerprint]):
        """pictures: to look among."""
        colours = np.frombuffer(b"".join(one.colours for one in pictures), np.uint8)
        self._take(np.array([one.hash for one in pictures], dtype=np.uint64), colours.reshape(-1, COLOURS))

    @classmethod
    def of_many(cls, hashes: np.ndarray, colours: Colours) -> NearCopies:
        """Near-copies among many pictures, of which there are no objects; it keeps some 50 bytes of each.

        Args:
            hashes: uint64 [pictures], as `Fingerprint.hash`; it is kept, not copied.
            colours: of each picture, as `Fingerprint.colours`; of few of them, when they are compared.
        """
        found = cls([])
        found._take(hashes, colours)
        return found

    def _take(self, hashes: np.ndarray, colours: Colours) -> None:
        count = len(hashes)
        self._hashes, self._colours = hashes, colours
        self._by_hash: HashBands | None = None
        self._by_colour: ColourCells | None = None
        telling = np.zeros(0, np.int64)
        if count > FEW:
            telling = telling_colours(colours[np.arange(0, count, -(-count // SAMPLE))])
        self._sums, self._few = np.zeros(count, np.int32), np.zeros((count, len(telling)), np.uint8)
        for start in range(0, count, READ):
            block = colours[start : start + READ]
            self._sums[start : start + READ] = block.sum(axis=1, dtype=np.int32)
            self._few[start : start + READ] = block[:, telling]
        if count > FEW:
            self._by_hash = HashBands(hashes, NEAR_BITS)
            self._by_colour = ColourCells(self._few, telling)
        self._telling = telling

    def of(self, picture: Fingerprint) -> Iterator[int]:
        """The places of the pictures that are near-copies of one, in their order."""
        likely = self._looked_up(picture)
        places = np.arange(len(self._hashes)) if likely is None else likely
        begin, count = 0, FEW if likely is None else FIRST
        while begin < len(places):
            block = places[begin : begin + count]
            yield from block[self._alike(block, picture)].tolist()
            begin, count = begin + count, min(2 * count, MOST_AT_ONCE)

    def _looked_up(self, picture: Fingerprint) -> np.ndarray | None:
        """The places of all pictures that may be near-copies, in order; None: too many for it to be worth while."""
        if self._by_hash is None or self._by_colour is None:
            return None
        own = np.frombuffer(picture.colours, np.uint8)
        by_hash, same = self._by_hash.runs(picture.hash), self._by_colour.runs(own, SAME_COLOURS)
        hashed, most = sum(run.count for run in by_hash), len(self._hashes) // WORTH_WHILE
        wider = self._by_colour.runs(own, LARGEST_NEAR) if hashed > WIDE else None
        if wider is not None and wider.count < hashed:  # hashes of the whole set are alike
            return np.sort(wider.places()) if wider.count <= most else None
        if hashed + same.count > most:
            return None
        alike = np.concatenate([run.places() for run in by_hash])
        alike = alike[np.bitwise_count(self._hashes[alike] ^ np.uint64(picture.hash)) <= NEAR_BITS]
        return np.unique(np.concatenate([alike, same.places()]))

    def _alike(self, places: np.ndarray, picture: Fingerprint) -> np.ndarray:
        """Which of the pictures at some places are near-copies of one, as a mask."""
        own = np.frombuffer(picture.colours, np.uint8).astype(np.int16)
        likely = np.flatnonzero(np.abs(self._sums[places] - int(own.sum())) <= MOST_APART)
        likely = likely[self._may_be_alike(places[likely], picture.hash, own)]
        near = places[likely]
        apart = np.abs(self._colours[near] - own)
        bits = np.bitwise_count(self._hashes[near] ^ np.uint64(picture.hash))
        most = apart.max(axis=1, initial=0)
        alike = (bits <= NEAR_BITS) & (apart.sum(axis=1) <= NEAR_COLOURS * COLOURS) & (most <= LARGEST_NEAR)
        mask = np.zeros(len(places), bool)
        mask[likely] = alike | (most <= SAME_COLOURS)
        return mask

    def _may_be_alike(self, places: np.ndarray, wanted: int, own: np.ndarray) -> np.ndarray:
        """Which of the pictures at some places can be near-copies by their hashes and the few colours in memory.

        Args:
            places: int64 [N].
            wanted: the hash of the picture that they are compared with.
            own: its colours, int16 [`COLOURS`].
        """
        apart = np.abs(self._few[places] - own[self._telling]).max(axis=1, initial=0)
        bits = np.bitwise_count(self._hashes[places] ^ np.uint64(wanted))
        return (apart <= SAME_COLOURS) | ((apart <= LARGEST_NEAR) & (bits <= NEAR_BITS))
