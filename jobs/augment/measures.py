"""What a picture is measured by: brightness, contrast, sharpness, and how far it is from its source. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 32
"""Pictures are compared with their sources at so many pixels a side."""

LONGEST = 256
"""Sharpness is measured at so many pixels of the longer side at most."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Numbers about one picture.

    Attributes:
        brightness: the mean of its luma, 0 to 255.
        contrast: the standard deviation of its luma.
        sharpness: the standard deviation of the Laplacian of its luma.
    """

    brightness: float
    contrast: float
    sharpness: float


def measure(pixels: np.ndarray) -> Measures:
    """Measure a picture. pixels: uint8 [rows, columns, 3]."""
    image = Image.fromarray(pixels).convert("L")
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    luma = np.asarray(image, dtype=np.float32)
    return Measures(float(luma.mean()), float(luma.std()), sharpness(luma))


def sharpness(luma: np.ndarray) -> float:
    """The standard deviation of the Laplacian. luma: float32 [rows, columns]; 0 for less than 3 of either."""
    if min(luma.shape) < 3:
        return 0.0
    middle = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * middle
    return float(laplacian.std())


def small(pixels: np.ndarray) -> np.ndarray:
    """A picture as it is compared: float32 [SIDE, SIDE, 3] in [0, 1]. pixels: uint8 [rows, columns, 3]."""
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32) / 255


def distance(picture: np.ndarray, source: np.ndarray) -> float:
    """The root mean square difference of two pictures as `small` gives them, from 0 to 1."""
    return float(np.sqrt(np.square(picture - source).mean()))


def blended(pictures: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """The mixture of several sources as `small` gives them. shares: in any proportion."""
    return np.average(np.stack(pictures), axis=0, weights=shares)
