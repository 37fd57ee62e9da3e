"""What a model of the user says of pictures: a row of numbers for each, or one line that names the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wanbatch.counting import number_of
from wanbatch.errors import UserError

Model = Callable[[Sequence[np.ndarray]], np.ndarray]
"""float [N, numbers] of pictures, uint8 [rows, columns, 3] each."""


class ModelAnswers:
    """Asks a model about pictures, and makes sure that its answers are rows of numbers of one length."""

    def __init__(self, flag: str, model: Model, minus_infinity: bool = False):
        """
        Args:
            flag: that names the model, for messages.
            model: is called with pictures.
            minus_infinity: whether numbers may be that, as of classes that are ruled out.
        """
        self._flag, self._model, self._minus_infinity = flag, model, minus_infinity
        self._remedy = f"correct the model, or leave out {flag}"
        self._length: int | None = None

    def of(self, pictures: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """What the model says of pictures.

        Args:
            pictures: uint8 [rows, columns, 3] each, at least one.
            names: of each, for messages.

        Returns:
            float32 [N, numbers], or float64 if the model is of that.

        Raises:
            UserError: The model fails, or what it gives are no such rows.
        """
        try:
            found = np.asarray(self._model(pictures))
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise self._failure(error, pictures, names) from error
        if found.ndim != 2 or len(found) != len(pictures) or not found.shape[1] or found.dtype.kind not in "fiu":
            shape = "x".join(map(str, found.shape)) or "1"
            raise UserError(
                f"the model of {self._flag} gives {found.dtype} of shape {shape} for "
                f"{number_of(len(pictures), 'pictures')} from {names[0]!r} on, not a row of numbers for each: "
                f"{self._remedy}"
            )
        bad = np.isnan(found) | np.isposinf(found) | (np.isneginf(found) & (not self._minus_infinity))
        if bad.any():
            name = names[int(np.flatnonzero(bad.any(axis=1))[0])]
            raise UserError(f"the model of {self._flag} gives NaN or infinity for picture {name!r}: {self._remedy}")
        if self._length not in (None, found.shape[1]):
            raise UserError(
                f"the model of {self._flag} gives {number_of(found.shape[1], 'numbers')} for picture {names[0]!r}, "
                f"and {self._length} for those before it: {self._remedy}"
            )
        self._length = found.shape[1]
        return found.astype(np.float32 if found.dtype in (np.float16, np.float32) else np.float64, copy=False)

    def _failure(self, error: Exception, pictures: Sequence[np.ndarray], names: Sequence[str]) -> UserError:
        """What to say of an error: each picture is tried alone, to find the one that it is about."""
        where = f"the {number_of(len(names), 'pictures')} from {names[0]!r} to {names[-1]!r}"
        for picture, name in zip(pictures, names, strict=True):
            try:
                self._model([picture])
            except Exception as own:  # noqa: BLE001  the code is of the user
                where, error = f"picture {name!r}", own
                break
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return UserError(f"the model of {self._flag} fails at {where} ({said}): {self._remedy}")
