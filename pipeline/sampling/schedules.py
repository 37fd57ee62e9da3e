"""Noise schedules: at which noise levels a row's model is evaluated.

A schedule is an array of levels, strictly falling, at most 1. `SPACINGS` all have the ends of `linear`, which is
Wan2.2's own, and place the levels between them in different ways. `SCHEDULER_LEVELS` are those of diffusers' other
flow-matching schedulers, level for level, for models that come with one of them. Image-to-image is here too: the cut
of a schedule at a level, and the spacing of all its steps below that level. What a solver makes of the levels is in
`solvers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from wanbatch.counting import number_of
from wanbatch.errors import UserError

TRAIN_TIMESTEPS = 1000  # the model's time input is sigma times this
HIGHEST = 1 - 1e-6  # the highest level at which solvers work with the log-SNR, which is not finite at 1 itself
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
    """The noise levels of a row, [steps + 1] or fewer, float64; the last one is 0, except with `deis_flow`.

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
        return _respaced(steps, shift, schedule, min(creativity, HIGHEST))
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
            f"creativity {start:g} leaves no room for {number_of(steps, 'steps')} between it and 0: raise it or "
            f"take fewer steps"
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
    first = 1 if start >= 1 else _unshifted(start, shift)
    sigmas = np.linspace(first, 1 / TRAIN_TIMESTEPS, steps + 1)[:-1]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    sigmas[0] = min(sigmas[0], HIGHEST)
    return np.append(sigmas, 0.0)


def flow_match(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """The levels of diffusers' FlowMatchEuler-, Heun- and LCM-schedulers, [steps + 1], from 1 itself to 0.

    These shift the two ends when they are built, in float32, and then all levels between them. start: as of `linear`.
    """
    highest, lowest = (float(_shifted_float32(level, shift)) for level in (TRAIN_TIMESTEPS, 1))
    first = highest if start >= 1 else _unshifted(start, shift)
    sigmas = np.linspace(first * TRAIN_TIMESTEPS, lowest * TRAIN_TIMESTEPS, steps) / TRAIN_TIMESTEPS
    return np.append(shift * sigmas / (1 + (shift - 1) * sigmas), 0.0)


def dpmpp_flow(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """The levels of diffusers' `DPMSolverMultistepScheduler(use_flow_sigmas=True)`: even from 0.999 to 0, shifted.

    start: as of `linear`.
    """
    last = 1 / TRAIN_TIMESTEPS if start >= 1 else 1 - _unshifted(start, shift)
    sigmas = 1.0 - np.linspace(1, last, steps + 1)
    return np.append(np.flip(shift * sigmas / (1 + (shift - 1) * sigmas))[:-1], 0.0)


def deis_flow(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
    """The levels of diffusers' `DEISMultistepScheduler(use_flow_sigmas=True)`, [steps]: those of `dpmpp_flow` less 0.

    That scheduler repeats its last level in place of 0. Its last step so changes nothing, and is left out here; the
    noise of the last level stays in the picture.
    """
    return dpmpp_flow(steps, shift, start)[:-1]


def karras(steps: int, first: float, last: float) -> np.ndarray:
    """Levels above 0 that are even in the 7th root (Karras et al. 2022, equation 5), [steps]."""
    return np.linspace(first ** (1 / KARRAS_RHO), last ** (1 / KARRAS_RHO), steps) ** KARRAS_RHO


def exponential(steps: int, first: float, last: float) -> np.ndarray:
    """Levels above 0 that are even in their logarithm, [steps]."""
    return np.exp(np.linspace(math.log(first), math.log(last), steps))


def beta(steps: int, first: float, last: float) -> np.ndarray:
    """Levels above 0 that are dense at both ends: quantiles of Beta(0.6, 0.6) (Lee et al. 2024), [steps]."""
    return last + (first - last) * beta_quantile(1 - np.linspace(0, 1, steps), BETA_SHAPE)


Schedule = Callable[[int, float, float], np.ndarray]
"""(steps, shift, level to start at) -> levels."""


def _between_ends_of(schedule: Schedule, place: Callable[[int, float, float], np.ndarray]) -> Schedule:
    """The schedule that has the highest and the lowest level above 0 of another, and places the others anew."""

    def placed(steps: int, shift: float, start: float = 1.0) -> np.ndarray:
        sigmas = schedule(steps, shift, start)
        return np.append(place(steps, float(sigmas[0]), float(sigmas[-2])), 0.0)

    return placed


PLACES = {"karras": karras, "exponential": exponential, "beta": beta}

SPACINGS: dict[str, Schedule] = {
    "linear": linear,
    **{name: _between_ends_of(linear, place) for name, place in PLACES.items()},
}
"""Schedules that suit every model."""

SCHEDULER_LEVELS: dict[str, Schedule] = {
    "flow_match": flow_match,
    **{f"flow_match_{name}": _between_ends_of(flow_match, place) for name, place in PLACES.items()},
    "dpmpp_flow": dpmpp_flow,
    "deis_flow": deis_flow,
}
"""The levels of diffusers' schedulers other than UniPC, whose levels are `linear`."""

SCHEDULES = {**SPACINGS, **SCHEDULER_LEVELS}


def lowest_level(sigmas: np.ndarray) -> float:
    """The last of a schedule's levels that is above 0: no picture can start below it."""
    return float(sigmas[sigmas > 0][-1])


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
    """The part of a schedule below `creativity`, beginning exactly there, but nowhere between `HIGHEST` and 1.

    The start replaces the level that it lies nearer to: a first step of almost no length would only multiply
    rounding errors in the solvers that divide by it. With creativity 1 nothing is cut; below the last level of a
    schedule that does not end at 0 no step is left.
    """
    if creativity >= 1:
        return sigmas
    if creativity <= 0:
        return np.zeros(1)
    start = min(creativity, HIGHEST)
    return np.concatenate([[start], sigmas[int(_kept_from(sigmas, np.array([start]))[0]) :]])


def steps_after_cut(sigmas: np.ndarray, creativity: np.ndarray) -> np.ndarray:
    """How many steps `cut` leaves of a schedule at each of many creativities in [0, 1]; int64, of the same shape."""
    kept = len(sigmas) - _kept_from(sigmas, creativity)
    return np.where(creativity >= 1, len(sigmas) - 1, np.where(creativity <= 0, 0, kept))


def _kept_from(sigmas: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The index of the first level that stays behind each start; starts in (0, 1)."""
    starts = np.minimum(starts, HIGHEST)
    found = np.searchsorted(-sigmas, -starts, side="right")
    below = np.minimum(found, len(sigmas) - 1)
    above = np.where(below > 0, sigmas[below - 1], 1.0)
    nearer = starts - sigmas[below] < (above - sigmas[below]) / 2
    return np.where((found == len(sigmas)) & (sigmas[-1] > 0), found, below + (nearer & (below < len(sigmas) - 1)))


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


def _unshifted(level: float, shift: float) -> float:
    """What the shift takes to a level."""
    return level / (shift - (shift - 1) * level)


def _shifted_float32(timestep: int, shift: float) -> np.float32:
    """A time of training as a shifted level, with the roundings of diffusers' FlowMatch schedulers."""
    sigma = np.float32(timestep) / np.float32(TRAIN_TIMESTEPS)
    return np.float32(shift) * sigma / (np.float32(1) + np.float32(shift - 1) * sigma)
