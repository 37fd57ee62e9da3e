"""Noise schedules: at which noise levels a row's model is evaluated.

A schedule is an array of levels, strictly falling, from just below 1 to 0. `linear` is the model's own; the others
place their levels between the same two ends, as diffusers' flow-matching schedulers do. The image-to-image cut is
here too. What a solver makes of the levels is in `samplers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from wanbatch.errors import UserError

TRAIN_TIMESTEPS = 1000  # the model's time input is sigma times this
HIGHEST = 1 - 1e-6  # at 1 itself nothing is left of the picture, and the log-SNR is not finite
SMALLEST_FALL = 1e-5  # between explicit levels; closer ones are equal after rounding to float32
KARRAS_RHO = 7.0
BETA_SHAPE = 0.6


def levels(
    steps: int,
    shift: float | None,
    creativity: float = 1.0,
    schedule: str | None = "linear",
    sigmas: Sequence[float] | None = None,
) -> np.ndarray:
    """The noise levels of a row, [steps + 1] or fewer, float64; the last one is 0.

    creativity: in [0, 1]; 1 runs the whole schedule, less starts at exactly that noise level, 0 has no step.
    sigmas: explicit levels without the final 0, instead of steps, shift and schedule.
    Raises UserError for an unknown schedule, less than one step, or explicit levels that do not fall.
    """
    return cut(_whole(steps, shift, schedule, None if sigmas is None else tuple(sigmas)), creativity)


@lru_cache(maxsize=1024)
def _whole(steps: int, shift: float | None, schedule: str | None, sigmas: tuple[float, ...] | None) -> np.ndarray:
    if sigmas is not None:
        whole = explicit(sigmas)
    elif schedule not in SCHEDULES:
        raise UserError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    elif shift is None or steps < 1:
        raise UserError(f"a schedule needs a shift and at least 1 step, not shift {shift} and {steps} steps")
    else:
        whole = SCHEDULES[schedule](steps, shift)
    whole.flags.writeable = False
    return whole


def linear(steps: int, shift: float) -> np.ndarray:
    """Evenly spaced noise levels, shifted: `s' = k s / (1 + (k - 1) s)` (Esser et al. 2024, section 5.3.2).

    [steps + 1], from just below 1 to 0: the levels of diffusers' `UniPCMultistepScheduler(use_flow_sigmas=True)`,
    which is Wan2.2's own.
    """
    sigmas = np.linspace(1, 1 / TRAIN_TIMESTEPS, steps + 1)[:-1]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    sigmas[0] = min(sigmas[0], HIGHEST)
    return np.append(sigmas, 0.0)


def karras(steps: int, shift: float) -> np.ndarray:
    """Even in the 7th root of the level (Karras et al. 2022, equation 5), between the ends of `linear`."""
    first, last = _ends(steps, shift)
    ramp = np.linspace(first ** (1 / KARRAS_RHO), last ** (1 / KARRAS_RHO), steps)
    return np.append(ramp**KARRAS_RHO, 0.0)


def exponential(steps: int, shift: float) -> np.ndarray:
    """Even in the logarithm of the level, between the ends of `linear`."""
    first, last = _ends(steps, shift)
    return np.append(np.exp(np.linspace(math.log(first), math.log(last), steps)), 0.0)


def beta(steps: int, shift: float) -> np.ndarray:
    """Dense at both ends: quantiles of Beta(0.6, 0.6) (Lee et al. 2024), between the ends of `linear`."""
    first, last = _ends(steps, shift)
    return np.append(last + (first - last) * beta_quantile(1 - np.linspace(0, 1, steps), BETA_SHAPE), 0.0)


SCHEDULES: dict[str, Callable[[int, float], np.ndarray]] = {
    "linear": linear,
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
}


def explicit(sigmas: Sequence[float]) -> np.ndarray:
    """Levels as given, then 0. Raises UserError unless they are in (0, 1] and fall."""
    given = np.array(sigmas, dtype=np.float64)
    if not len(given) or not 0 < given.max() <= 1 or not (np.diff(given, append=0.0) <= -SMALLEST_FALL).all():
        raise UserError(
            f"sigmas must be noise levels in (0, 1], each at least {SMALLEST_FALL:.5f} below the one before, "
            "without the final 0"
        )
    return np.append(np.minimum(given, HIGHEST), 0.0)


def cut(sigmas: np.ndarray, creativity: float) -> np.ndarray:
    """The part of a schedule below `creativity`, beginning exactly there.

    The start replaces the level that it lies nearer to: a first step of almost no length would only multiply
    rounding errors in the solvers that divide by it. With creativity 1 nothing is cut.
    """
    if creativity >= 1:
        return sigmas
    if creativity <= 0:
        return np.zeros(1)
    below = int(np.argmax(sigmas < creativity))
    above = sigmas[below - 1] if below > 0 else 1.0
    last = below == len(sigmas) - 1
    if not last and creativity - sigmas[below] < (above - sigmas[below]) / 2:
        below += 1
    return np.concatenate([[creativity], sigmas[below:]])


def beta_quantile(probability: np.ndarray, shape: float) -> np.ndarray:
    """Where the distribution function of Beta(shape, shape), shape in (0, 1), has given values in [0, 1].

    Bisection on the series of the incomplete beta function (DLMF 8.17.7), which
    converges fast below the median; above it the distribution is its mirror image.
    """
    tail = np.minimum(probability, 1 - probability)
    terms = np.arange(60)
    # (1 - shape)_n / n! / (shape + n), the coefficients of x^n
    coefficients = np.cumprod(np.append(1.0, (terms[:-1] + 1 - shape) / terms[1:])) / (shape + terms)
    area = math.gamma(shape) ** 2 / math.gamma(2 * shape)
    low, high = np.zeros_like(tail), np.full_like(tail, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        mass = middle**shape * (middle[..., None] ** terms @ coefficients) / area
        low, high = np.where(mass < tail, middle, low), np.where(mass < tail, high, middle)
    return np.where(probability <= 0.5, high * (tail > 0), 1 - high * (tail > 0))


def _ends(steps: int, shift: float) -> tuple[float, float]:
    """The highest and the lowest level above 0."""
    sigmas = linear(steps, shift)
    return float(sigmas[0]), float(sigmas[-2])
