"""Noise schedules: at which noise levels a row's model is evaluated.

A schedule is an array of levels, strictly falling, from just below 1 to 0. `linear` is the model's own; the others
place their levels between the same two ends, as diffusers' flow-matching schedulers do. Image-to-image is here too:
the cut of a schedule at a level, and the spacing of all its steps below that level. What a solver makes of the levels
is in `solvers.py`.
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

KEEP, RESPACE = "keep", "respace"
CREATIVITY_STEPS = (KEEP, RESPACE)
"""What becomes of the steps of a row that starts below 1: the levels of its schedule stay and those above the start
are left out, or all the steps are spaced anew between the start and 0."""


def levels(
    steps: int,
    shift: float | None,
    creativity: float = 1.0,
    schedule: str | None = "linear",
    sigmas: Sequence[float] | None = None,
    creativity_steps: str | None = KEEP,
) -> np.ndarray:
    """The noise levels of a row, [steps + 1] or fewer, float64; the last one is 0.

    Args:
        steps, shift, schedule: of the whole schedule.
        creativity: in [0, 1]; 1 runs the whole schedule, less starts at exactly that noise level, 0 has no step.
        sigmas: explicit levels without the final 0, instead of steps, shift and schedule.
        creativity_steps: one of `CREATIVITY_STEPS`; None: `keep`. Explicit levels are always kept.
    Raises:
        UserError: for an unknown schedule, less than one step, explicit levels that do not fall, or a creativity
            with no room for so many steps below it.
    """
    if creativity_steps == RESPACE and sigmas is None and 0 < creativity < 1:
        return _respaced(steps, shift, schedule, creativity)
    return cut(_whole(steps, shift, schedule, None if sigmas is None else tuple(sigmas)), creativity)


@lru_cache(maxsize=1024)
def _whole(steps: int, shift: float | None, schedule: str | None, sigmas: tuple[float, ...] | None) -> np.ndarray:
    whole = explicit(sigmas) if sigmas is not None else _spaced(steps, shift, schedule, 1.0)
    whole.flags.writeable = False
    return whole


@lru_cache(maxsize=1024)
def _respaced(steps: int, shift: float | None, schedule: str | None, start: float) -> np.ndarray:
    """All steps of a schedule between a level below 1 and 0: [steps + 1], beginning exactly there."""
    spaced = _spaced(steps, shift, schedule, start)
    spaced[0] = start
    if not (np.diff(spaced) <= -SMALLEST_FALL).all():
        raise UserError(
            f"creativity {start:g} leaves no room for {steps} steps between it and 0: raise it or take fewer steps"
        )
    spaced.flags.writeable = False
    return spaced


def _spaced(steps: int, shift: float | None, schedule: str | None, start: float) -> np.ndarray:
    if schedule not in SCHEDULES:
        raise UserError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    if shift is None or steps < 1:
        raise UserError(f"a schedule needs a shift and at least 1 step, not shift {shift} and {steps} steps")
    return SCHEDULES[schedule](steps, shift, start)


def linear(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """Evenly spaced noise levels, shifted: `s' = k s / (1 + (k - 1) s)` (Esser et al. 2024, section 5.3.2).

    [steps + 1], from just below 1 to 0: the levels of diffusers' `UniPCMultistepScheduler(use_flow_sigmas=True)`,
    which is Wan2.2's own.

    start: the level to begin at instead of 1; what is evenly spaced then begins at `start / (k - (k - 1) start)`,
    which the shift takes there.
    """
    first = 1 if start >= 1 else start / (shift - (shift - 1) * start)
    sigmas = np.linspace(first, 1 / TRAIN_TIMESTEPS, steps + 1)[:-1]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    sigmas[0] = min(sigmas[0], HIGHEST)
    return np.append(sigmas, 0.0)


def karras(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """Even in the 7th root of the level (Karras et al. 2022, equation 5), between the ends of `linear`."""
    first, last = _ends(steps, shift, start)
    ramp = np.linspace(first ** (1 / KARRAS_RHO), last ** (1 / KARRAS_RHO), steps)
    return np.append(ramp**KARRAS_RHO, 0.0)


def exponential(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """Even in the logarithm of the level, between the ends of `linear`."""
    first, last = _ends(steps, shift, start)
    return np.append(np.exp(np.linspace(math.log(first), math.log(last), steps)), 0.0)


def beta(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """Dense at both ends: quantiles of Beta(0.6, 0.6) (Lee et al. 2024), between the ends of `linear`."""
    first, last = _ends(steps, shift, start)
    return np.append(last + (first - last) * beta_quantile(1 - np.linspace(0, 1, steps), BETA_SHAPE), 0.0)


SCHEDULES: dict[str, Callable[[int, float, float], np.ndarray]] = {
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
    return np.concatenate([[creativity], sigmas[int(_kept_from(sigmas, np.array([creativity]))[0]) :]])


def steps_after_cut(sigmas: np.ndarray, creativity: np.ndarray) -> np.ndarray:
    """How many steps `cut` leaves of a schedule at each of many creativities in [0, 1]; int64, of the same shape."""
    kept = len(sigmas) - _kept_from(sigmas, creativity)
    return np.where(creativity >= 1, len(sigmas) - 1, np.where(creativity <= 0, 0, kept))


def _kept_from(sigmas: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The index of the first level that stays behind each start; starts in (0, 1)."""
    below = np.minimum(np.searchsorted(-sigmas, -starts, side="right"), len(sigmas) - 1)
    above = np.where(below > 0, sigmas[below - 1], 1.0)
    nearer = starts - sigmas[below] < (above - sigmas[below]) / 2
    return below + (nearer & (below < len(sigmas) - 1))


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


def _ends(steps: int, shift: float, start: float) -> tuple[float, float]:
    """The highest and the lowest level above 0."""
    sigmas = linear(steps, shift, start)
    return float(sigmas[0]), float(sigmas[-2])
