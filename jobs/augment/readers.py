"""Readers: models of the user that are shown the pictures of a folder while it is checked, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wanbatch.jobs.augment.verdicts import Checked

BATCH = 32
"""Pictures that a reader is shown at a time."""


class ReaderFindings(NamedTuple):
    """What a reader found of all pictures together.

    Attributes:
        columns: by names of `verdicts.COLUMNS`, a value for each picture that it was shown, in that order, of what is
            not known before all are.
        folder: numbers about the folder as a whole.
    """

    columns: Mapping[str, pa.Array]
    folder: Mapping[str, float]


class Reader:
    """What is shown each picture with its pixels; for the user's own models. A reader is for one check."""

    def begin(self, labels: Callable[[], Set[str]]) -> None:
        """Hear that a check begins, and refuse what cannot end well. labels: finds the classes of all pictures."""

    def look(self, pictures: Sequence[Checked], pixels: Sequence[np.ndarray]) -> None:
        """Look at pictures, and write into each what is known of it.

        Args:
            pictures: 1 to `BATCH`, those whose file can be read.
            pixels: of each, uint8 [rows, columns, 3].
        """

    def finish(self, order: np.ndarray) -> ReaderFindings:
        """What was found of all together.

        Args:
            order: the places of the pictures that it was shown in the order of the manifest, int64 [N].
        """
        return ReaderFindings({}, {})

    def close(self) -> None:
        """Free what is kept, also of a check that fails."""


class ShownPictures:
    """Shows pictures to readers, and knows the parts of the folder whose pictures all readers have looked at.

    What waits is a part and `BATCH` pictures at most, or as many parts as have these.
    """

    def __init__(self, readers: Sequence[Reader]):
        self._readers = readers
        self._pictures: list[Checked] = []
        self._pixels: list[np.ndarray] = []
        self._ended, self._looked_at = deque[list[Checked]](), deque[list[Checked]]()
        self._part: list[Checked] = []

    def add(self, one: Checked, pixels: np.ndarray | None) -> None:
        """Take the next picture of a part. pixels: uint8 [rows, columns, 3]; None: its file cannot be read."""
        self._part.append(one)
        if self._readers and pixels is not None:
            self._pictures.append(one)
            self._pixels.append(pixels)
            if len(self._pictures) == BATCH:
                self._look()

    def end_part(self) -> None:
        """The part has no more pictures."""
        self._ended.append(self._part)
        self._part = []
        if not self._pictures:
            self._settle()

    def end(self) -> None:
        """There are no more parts."""
        if self._pictures:
            self._look()

    def parts(self) -> Iterator[list[Checked]]:
        """The parts of which all is known that readers say of single pictures, in their order, each once."""
        while self._looked_at:
            yield self._looked_at.popleft()

    def _look(self) -> None:
        for reader in self._readers:
            reader.look(self._pictures, self._pixels)
        self._pictures, self._pixels = [], []
        self._settle()

    def _settle(self) -> None:
        self._looked_at += self._ended
        self._ended.clear()
