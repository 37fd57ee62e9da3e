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


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was measured of each picture, in one order; None where a metric was not asked for.

    Attributes:
        psnr: fp64 [N], in dB.
        ssim, lpips: fp64 [N].
        right: bool [N, attributes], whether the judge read what it should.
    """

    psnr: np.ndarray
    ssim: np.ndarray | None = None
    lpips: np.ndarray | None = None
    right: np.ndarray | None = None

    @property
    def all_right(self) -> np.ndarray | None:
        """Whether all attributes of a picture are right, fp64 [N]."""
        return None if self.right is None else np.min(self.right, axis=1).astype(np.float64)

    def score(self) -> Score:
        """The means."""
        return Score(
            pictures=len(self.psnr),
            psnr=float(self.psnr.mean()),
            worst_psnr=float(self.psnr.min()),
            ssim=_mean(self.ssim),
            lpips=_mean(self.lpips),
            judge=_mean(self.right),
            judge_all=_mean(self.all_right),
        )

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % confidence intervals of the means, over which pictures there might have been (`bootstrap`)."""
        return {name: bootstrap(values) for name, values in self._of_means().items()}

    def differences(self, other: Measured) -> dict[str, tuple[float, float, float]]:
        """How much higher the means are than another's, measured on the same pictures in the same order.

        Returns:
            By metric: the mean difference, and the ends of its 95 % confidence interval. The pictures are drawn in
            pairs, so what makes a picture hard for both does not widen the interval.

        Raises:
            ValueError: If the two are not of as many pictures.
        """
        if len(self.psnr) != len(other.psnr):
            raise ValueError(f"{len(self.psnr)} pictures cannot be paired with {len(other.psnr)}")
        theirs = other._of_means()
        found = {}
        for name, ours in self._of_means().items():
            if name in theirs:
                found[name] = (float((ours - theirs[name]).mean()), *bootstrap(ours - theirs[name]))
        return found

    def _of_means(self) -> dict[str, np.ndarray]:
        """What has an interval, fp64 [N] each."""
        values = {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips, "judge_all": self.all_right}
        return {name: given for name, given in values.items() if given is not None}


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """A 95 % confidence interval of a mean: the percentiles of 2000 bootstrap samples of the values, fp64 [N]."""
    chosen = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[chosen].mean(1), (0.025, 0.975))
    return float(low), float(high)


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values.mean())


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
