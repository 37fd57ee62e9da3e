"""What the pictures of a folder are together: what is kept of each until all are measured, and what follows. Pure.

Of a picture some 300 bytes are kept, in arrays; its other measures are not needed before all are known.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass

import numpy as np

from wanbatch.jobs.augment.checks_settings import Band, Checks
from wanbatch.jobs.augment.near_copies import COLOURS, Fingerprint, NearCopies
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
        self._rows, self._variants = array("q"), array("q")
        self._digests, self._colours = bytearray(), bytearray()
        self._hashes, self._looked_at = array("Q"), array("q")  # of those with a fingerprint, and their places
        self._sharpness, self._creativity, self._distance = array("d"), array("d"), array("d")

    def add(self, one: Checked) -> None:
        """Take the next picture, measured; its place is how many there were before."""
        if one.fingerprint is not None:
            self._looked_at.append(len(self._rows))
            self._hashes.append(one.fingerprint.hash)
            self._colours += one.fingerprint.colours
        self._rows.append(one.manifest_row)
        self._variants.append(one.variant)
        self._digests += hashlib.blake2b(one.sha256.encode(), digest_size=DIGEST).digest()
        for values, value in (
            (self._sharpness, one.sharpness),
            (self._creativity, one.creativity),
            (self._distance, one.source_distance),
        ):
            values.append(math.nan if value is None else value)

    def together(self, checks: Checks) -> Together:
        """What follows from all pictures.

        Args:
            checks: give the bands, or how they are learnt.
        """
        sharpness = np.frombuffer(self._sharpness)
        known = sharpness[~np.isnan(sharpness)]
        order = np.lexsort((np.frombuffer(self._variants, np.int64), np.frombuffer(self._rows, np.int64)))
        creativity, distance = np.frombuffer(self._creativity), np.frombuffer(self._distance)
        return Together(
            bands=checks.bands or learnt_bands(creativity, distance, checks.tolerance),
            usual_sharpness=float(np.median(known)) if len(known) else 0.0,
            exact_duplicate=self._exact_duplicates(order),
            near_duplicate=self._near_duplicates(order),
        )

    def _exact_duplicates(self, order: np.ndarray) -> np.ndarray:
        """Of several that are the same all but the first. order: of the manifest, int64 [pictures]."""
        digests = np.frombuffer(self._digests, f"S{DIGEST}")[order]
        _, first = np.unique(digests, return_index=True)
        again = np.ones(len(order), bool)
        again[order[first]] = False
        return again

    def _near_duplicates(self, order: np.ndarray) -> np.ndarray:
        """Of several that look the same all but the first. order: of the manifest, int64 [pictures]."""
        found = np.full(len(order), UNKNOWN, np.int8)
        place = np.full(len(order), UNKNOWN, np.int64)
        places = np.frombuffer(self._looked_at, np.int64)
        place[places] = np.arange(len(places))
        looked_at = order[place[order] != UNKNOWN]  # in the order of the manifest
        chosen = place[looked_at]
        hashes = np.frombuffer(self._hashes, np.uint64)[chosen]
        colours = np.frombuffer(self._colours, np.uint8).reshape(-1, COLOURS)
        if not np.array_equal(chosen, np.arange(len(chosen))):  # else it is as it came: no copy of the largest array
            colours = colours[chosen]
        known = NearCopies.of_arrays(hashes, colours)
        for index, where in enumerate(looked_at.tolist()):
            own = Fingerprint(int(hashes[index]), colours[index].tobytes())
            found[where] = next(known.of(own), index) < index
        return found
