"""Rows of numbers in a temporary file, for what is of each of many pictures and too much for memory."""

from __future__ import annotations

import os
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np

from wanbatch.manifests.storage.atomic_files import named

BUFFER = 1 << 20
"""Bytes that are gathered before they are written."""
COPIED = 1024
"""Rows that are copied at a time."""


class NumbersOnDisk:
    """Rows of one length and type, in a file without a name in the folder of temporary files; a context manager.

    The file is there from the first row on. All of it raises OSError, with the name of that folder, if the folder
    cannot be used or is full.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._row = np.zeros((0, 0))  # says type and length
        self._count, self._all_written = 0, True

    def __enter__(self) -> NumbersOnDisk:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many rows there are."""
        return self._count

    def add(self, rows: np.ndarray) -> None:
        """Add rows. rows: [N, numbers]; type and length as of the first ones."""
        if self._file is None:
            self._row = rows[:0].copy()
            with named(gettempdir()):
                self._file = TemporaryFile(prefix="wanbatch-", buffering=BUFFER)  # noqa: SIM115  until close
        if rows.shape[1] != self._row.shape[1] or rows.dtype != self._row.dtype:
            raise ValueError(
                f"rows of {rows.shape[1]} {rows.dtype} among those of {self._row.shape[1]} {self._dtype}"
            )
        with named(gettempdir()):
            self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self._count += len(rows)
        self._all_written = False

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Read rows, [N, numbers]. places: a slice without steps, or the numbers of rows, int [N]."""
        if not self._all_written:
            with named(gettempdir()):
                self._file.flush()
            self._all_written = True
        if isinstance(places, slice):
            start, stop, _ = places.indices(self._count)
            return self._read(start, max(0, stop - start))
        found = np.empty((len(places), self._row.shape[1]), self._dtype)
        begins = np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist()  # of rows that follow each other
        ends = [*begins[1:], len(places)] if begins else []
        for begin, end in zip(begins, ends, strict=True):
            found[begin:end] = self._read(int(places[begin]), end - begin)
        return found

    def in_order(self, order: np.ndarray) -> NumbersOnDisk:
        """The same rows in another order; this object, if it is the order that they have.

        Args:
            order: the numbers of all rows, int [N].
        """
        if np.array_equal(order, np.arange(self._count)):
            return self
        other = NumbersOnDisk()
        for start in range(0, len(order), COPIED):
            other.add(self[order[start : start + COPIED]])
        return other

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()

    @property
    def _dtype(self) -> np.dtype:
        return self._row.dtype

    def _read(self, start: int, count: int) -> np.ndarray:
        rows = np.empty((count, self._row.shape[1]), self._dtype)
        view, offset = rows.reshape(-1).view(np.uint8).data, start * self._row.shape[1] * self._dtype.itemsize
        while len(view):
            with named(gettempdir()):
                got = os.preadv(self._file.fileno(), [view], offset)
            if not got:
                raise OSError(None, f"{gettempdir()}: a temporary file is shorter than what was written to it")
            view, offset = view[got:], offset + got
        return rows
