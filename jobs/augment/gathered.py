"""What the pictures of a folder are together: what is kept of each until all are measured, and what follows. Pure.

Of a picture some 100 bytes are kept, in arrays, and its colours in a temporary file; its other measures are not
needed before all are known.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass

import numpy as np

from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.near_copies import READ, Fingerprint, NearCopies
from wanbatch.jobs.augment.numbers_on_disk import NumbersOnDisk
from wanbatch.jobs.augment.verdicts import Checked, learnt_bands

DIGEST = 16
"""Bytes of a digest by which pictures are told to be the same."""

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Together:
    """What pictures are judged by besides their own measures.

    Attributes:
        bands: of distances, given or learnt.
        usual_sharpness: the median of the sharpness of all.
        exact_duplicate: bool [pictures], whether an earlier picture of the manifest is the same.
        near_duplicate: int8 [pictures], whether an earlier one looks the same, 1 or 0; `UNKNOWN` without a look.
    """

    bands: tuple[Band, ...]
    usual_sharpness: float
    exact_duplicate: np.ndarray
    near_duplicate: np.ndarray


class Gathered:
    """Takes the pictures of a folder one by one, in whatever order, and knows at last what they are together."""

    def __init__(self) -> None:
        self._rows, self._variants = array("q"), array("i")
        self._digests = bytearray()
        self._hashes, self._looked_at = array("Q"), array("i")  # of those with a fingerprint, and their places
        self._colours = NumbersOnDisk()
        self._sharpness, self._creativity, self._distance = array("d"), array("d"), array("d")

    def __enter__(self) -> Gathered:
        return self

    def __exit__(self, *exc: object) -> None:
        self._colours.close()

    def add(self, one: Checked) -> None:
        """Take the next picture, measured; its place is how many there were before.

        Raises:
            OSError: The folder of temporary files cannot be used or is full.
        """
        if one.fingerprint is not None:
            self._looked_at.append(len(self._rows))
            self._hashes.append(one.fingerprint.hash)
            self._colours.add(np.frombuffer(one.fingerprint.colours, np.uint8)[None])
        self._rows.append(one.manifest_row)
        self._variants.append(one.variant)
        self._digests += hashlib.blake2b(one.sha256.encode(), digest_size=DIGEST).digest()
        for values, value in (
            (self._sharpness, one.sharpness),
            (self._creativity, one.creativity),
            (self._distance, one.source_distance),
        ):
            values.append(math.nan if value is None else value)

    def order_of_shown(self) -> np.ndarray:
        """The places of the pictures with a fingerprint among all of these, in the order of the manifest."""
        places = np.frombuffer(self._looked_at, np.int32)
        rows, variants = np.frombuffer(self._rows, np.int64), np.frombuffer(self._variants, np.int32)
        return np.lexsort((variants[places], rows[places]))

    def together(self, checks: Checks) -> Together:
        """What follows from all pictures; what is needed no more on the way is dropped, so once.

        Args:
            checks: give the bands, or how they are learnt.
        """
        creativity, distance = np.frombuffer(self._creativity), np.frombuffer(self._distance)
        bands = checks.bands or learnt_bands(creativity, distance, checks.tolerance)
        del creativity, distance, self._creativity, self._distance
        sharpness = np.frombuffer(self._sharpness)
        known = sharpness[~np.isnan(sharpness)]
        usual_sharpness = float(np.median(known)) if len(known) else 0.0
        del sharpness, known, self._sharpness
        exact = self._exact_duplicates()
        del self._digests
        order = self.order_of_shown().astype(np.int32)
        del self._rows, self._variants
        return Together(bands, usual_sharpness, exact, self._near_duplicates(order, len(exact)))

    def _exact_duplicates(self) -> np.ndarray:
        """Of several that are the same all but the first of the manifest."""
        rows, variants = np.frombuffer(self._rows, np.int64), np.frombuffer(self._variants, np.int32)
        digests = np.frombuffer(self._digests, np.uint64).reshape(-1, DIGEST // 8)
        order = np.lexsort((variants, rows, digests[:, 1], digests[:, 0]))
        again = np.zeros(len(order), bool)
        again[order[1:]] = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
        return again

    def _near_duplicates(self, order: np.ndarray, pictures: int) -> np.ndarray:
        """Of several that look the same all but the first.

        Args:
            order: as `order_of_shown` has it, int32 [shown].
            pictures: how many there are, with those that were not shown.
        """
        found = np.full(pictures, UNKNOWN, np.int8)
        if not len(order):
            return found
        places, hashes = np.frombuffer(self._looked_at, np.int32), np.frombuffer(self._hashes, np.uint64)[order]
        with self._colours.in_order(order) as colours:
            known = NearCopies.of_many(hashes, colours)
            for start in range(0, len(order), READ):
                for index, own in enumerate(colours[start : start + READ], start):
                    picture = Fingerprint(int(hashes[index]), own.tobytes())
                    found[places[order[index]]] = next(known.of(picture), index) < index
        return found
