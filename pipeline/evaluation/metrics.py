"""The metrics that pictures are scored with against their references, and the scores. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "judge": True}
HIGHEST_PSNR = 100.0  # dB, of equal pictures; a single value of 128x128 pixels that is off by one gives 95


@dataclass(frozen=True, slots=True)
class Score:
    """Means over pictures; None where a metric was not asked for.

    Attributes:
        pictures: How many were scored.
        psnr: In dB.
        worst_psnr: Of the picture that is farthest off, in dB.
        ssim: 1 for equal pictures.
        lpips: 0 for equal pictures.
        judge: Part of the attributes that are right.
        judge_all: Part of the pictures in which all attributes are right.
    """

    pictures: int
    psnr: float
    worst_psnr: float
    ssim: float | None = None
    lpips: float | None = None
    judge: float | None = None
    judge_all: float | None = None


def psnr_of(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB, at most `HIGHEST_PSNR`."""
    return psnr_of_error(np.square(first.astype(np.float64) - second).mean(), 255)


def psnr_of_error(error: float, span: float) -> float:
    """Peak signal-to-noise ratio in dB, at most `HIGHEST_PSNR`, of a mean squared error.

    Args:
        error: Mean squared difference.
        span: From the lowest to the highest value that there can be.
    """
    return HIGHEST_PSNR if error == 0 else min(HIGHEST_PSNR, float(10 * np.log10(span**2 / error)))
