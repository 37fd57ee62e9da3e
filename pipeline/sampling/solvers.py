"""Solvers, as tables of coefficients.

Flow matching mixes a picture and noise, `x_s = (1 - s) x0 + s eps`, and the model returns the velocity
`v = eps - x0`, so `x0 = x_s - s v`. The initial noise is not scaled and neither is the model's input.

Every solver here steps by a linear combination of a few tensors, with factors that depend on the noise levels
alone. So a solver is a function from noise levels to a table (`Solution`), made once a row on the host in
float64, and one small kernel (`batching/solver_step.py`) steps rows of different solvers, schedules and steps
together. docs/samplers.md derives the formulas.

It has no tensors and does not run the model; see `batching`. The noise levels are from `schedules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from wanbatch.errors import UserError
from wanbatch.pipeline.sampling.exponential import first_order, log_snr, phi_ratio, unipc_correct, unipc_predict
from wanbatch.pipeline.sampling.schedules import HIGHEST, TRAIN_TIMESTEPS, levels

HISTORY = 3  # earlier predictions that a solver may use
# What a row carries from step to step: the sample, the (corrected) sample before it, and HISTORY predictions of
# x0, newest first.
STATES = 2 + HISTORY
TERMS = 3 + HISTORY  # what a corrected or a next sample is combined from


@dataclass(frozen=True, slots=True)
class Solution:
    """The steps of one row, float64 on the host. A step here is one evaluation of the model.

    A solver that evaluates the model twice between two levels of the schedule (heun, res_2s) has two steps there:
    the first one's next sample is where the second one looks, the second one's correction is the result.

    sigmas: [steps + 1], the noise level of each evaluation, never rising, and the level that the last one leaves.
    timesteps: [steps], the model's time input.
    correct: [steps, TERMS], factors of (sample, sample before, x0 now, x0 before, ...) in the corrected sample.
    predict: [steps, TERMS], factors of (corrected sample, x0 now, x0 before, ..., sample before) in the next
        sample.
    noise: [steps], factor of fresh noise in the next sample; all 0 for a deterministic solver.
    reached: [steps], the noise level of the corrected sample: that of the evaluation, or, where a second evaluation
        ends a step of the schedule, the level that the step ends at.
    """

    sigmas: np.ndarray
    timesteps: np.ndarray
    correct: np.ndarray
    predict: np.ndarray
    noise: np.ndarray
    reached: np.ndarray

    @property
    def steps(self) -> int:
        """How often the model is evaluated."""
        return len(self.timesteps)


def solve(
    sampler: str,
    steps: int,
    shift: float | None,
    creativity: float = 1.0,
    schedule: str | None = "linear",
    sigmas: Sequence[float] | None = None,
    creativity_steps: str | None = None,
) -> Solution:
    """The table of a row; the arguments after `sampler` are those of `schedules.levels`.

    steps: of the schedule. Raises UserError for an unknown sampler or schedule.
    """
    solver = SOLVERS.get(sampler)
    if solver is None:
        raise UserError(f"unknown sampler {sampler!r}; known: {', '.join(SOLVERS)}")
    return solver(levels(steps, shift, creativity, schedule, sigmas, creativity_steps))


def evaluations(sampler: str, levels: np.ndarray) -> int:
    """The steps of a known sampler's table, without making it."""
    return int(evaluations_of_steps(sampler, np.array(len(levels) - 1)))


def evaluations_of_steps(sampler: str, steps: np.ndarray) -> np.ndarray:
    """How often a known sampler evaluates the model in so many steps between noise levels, of the same shape."""
    return np.maximum(0, 2 * steps - 1) if sampler in TWO_STAGES else steps


# ---- one evaluation a step ------------------------------------------------------------------------------------


def euler(sigmas: np.ndarray) -> Solution:
    """First order: `x' = x + (s' - s) v`, written with `v = (x - x0) / s`."""
    sigmas = _rounded(sigmas)
    correct, predict = _blank(sigmas)
    ratio = sigmas[1:] / sigmas[:-1]
    predict[:, 0], predict[:, 1] = ratio, 1 - ratio
    return _solution(sigmas, sigmas[:-1] * TRAIN_TIMESTEPS, correct, predict)


def dpmpp_2m(sigmas: np.ndarray) -> Solution:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, algorithm 2), with a first-order last step."""
    sigmas = _below_one(sigmas)
    return _two_steps(sigmas, _whole(sigmas), lambda length: 0.5)


def res_2m(sigmas: np.ndarray) -> Solution:
    """The refined exponential solver with one step's memory (Zhang et al. 2023), which diffusers lacks.

    DPM-Solver++(2M) but for the weight of the slope, which is exact for any length of step: phi_2 / phi_1.
    """
    sigmas = _below_one(sigmas)
    return _two_steps(sigmas, _rounded(sigmas)[:-1] * TRAIN_TIMESTEPS, phi_ratio)


def _two_steps(sigmas: np.ndarray, timesteps: np.ndarray, weight: Callable[[float], float]) -> Solution:
    """x0 on a straight line in the log-SNR through this and the last prediction; the last step keeps x0.

    weight: step's length in log-SNR -> the mean slope's share of the whole step's gain.
    """
    sigmas = _rounded(sigmas)
    correct, predict = _blank(sigmas)
    snr = log_snr(sigmas)
    for step in range(len(predict)):
        keep, gain, length = first_order(sigmas, snr, step)
        predict[step, :2] = keep, gain
        if step > 0 and sigmas[step + 1] > 0:
            slope = gain * weight(length) * length / (snr[step] - snr[step - 1])
            predict[step, 1] += slope
            predict[step, 2] -= slope
    return _solution(sigmas, timesteps, correct, predict)


def deis(sigmas: np.ndarray) -> Solution:
    """DEIS of order 2 in log-rho (Zhang and Chen 2022, tAB-DEIS), with a first-order last step.

    The noise eps lies on a straight line in log(s / (1 - s)) through this and the last evaluation. Written with
    x0 and the sample before, `eps = (x - (1 - s) x0) / s`, so that no large numbers cancel near s = 1.
    """
    sigmas = _below_one(sigmas)
    timesteps, sigmas = _whole(sigmas), _rounded(sigmas)
    correct, predict = _blank(sigmas)
    snr = log_snr(sigmas)
    for step in range(len(predict)):
        now, after = sigmas[step], sigmas[step + 1]
        predict[step, :2] = after / now, 1 - after / now
        if step > 0 and after > 0:
            before, length = sigmas[step - 1], snr[step + 1] - snr[step]
            area = (1 - after) * now / (1 - now) * (-np.expm1(-length) - length * np.exp(-length))
            slope = area / (snr[step] - snr[step - 1])  # factor of (eps before - eps now)
            predict[step, 0] -= slope / now
            predict[step, 1] += slope * (1 - now) / now
            predict[step, 2] -= slope * (1 - before) / before
            predict[step, -1] += slope / before
    return _solution(sigmas, timesteps, correct, predict)


# ---- with noise -----------------------------------------------------------------------------------------------


def lcm(sigmas: np.ndarray) -> Solution:
    """The sampler of consistency models (Luo et al. 2023): each x0 is mixed with fresh noise to the next level.

    For distilled weights; others need a deterministic solver, or many more steps.
    """
    sigmas = _rounded(sigmas)
    correct, predict = _blank(sigmas)
    predict[:, 1] = 1 - sigmas[1:]
    return _solution(sigmas, sigmas[:-1] * TRAIN_TIMESTEPS, correct, predict, noise=sigmas[1:])


def euler_ancestral(sigmas: np.ndarray) -> Solution:
    """Euler to a level below the next one, `d = s'^2 / s`, and up again by fresh noise (rectified-flow form).

    The way up is the forward process: x_s' = (1 - s') / (1 - d) x_d + noise, as much as brings the noise to s'.
    """
    sigmas = _rounded(sigmas)
    correct, predict = _blank(sigmas)
    now, after = sigmas[:-1], sigmas[1:]
    down = after**2 / now
    scale = (1 - after) / (1 - down)
    predict[:, 0], predict[:, 1] = scale * down / now, scale * (1 - down / now)
    noise = np.sqrt(after**2 - (scale * down) ** 2)
    return _solution(sigmas, now * TRAIN_TIMESTEPS, correct, predict, noise)


# ---- two evaluations a step -----------------------------------------------------------------------------------


def heun(sigmas: np.ndarray) -> Solution:
    """Second order: an Euler step, and again with the mean of the velocities at its two ends."""
    return _two_stages(sigmas, lambda now, after: (after, (now / after - 1) / 2))


def res_2s(sigmas: np.ndarray) -> Solution:
    """The refined exponential solver without memory (Zhang et al. 2023), which diffusers lacks.

    The second look is half-way in the log-SNR (c2 = 1/2), and x0's slope has its exact weight.
    """

    def second(now: float, after: float) -> tuple[float, float]:
        start, end = log_snr(np.array([now, after]))
        middle = float(np.float32(1 / (1 + np.exp((start + end) / 2))))
        return middle, (1 - after / now) * phi_ratio(end - start) * 2

    return _two_stages(_below_one(sigmas), second)


def _two_stages(sigmas: np.ndarray, second: Callable[[float, float], tuple[float, float]]) -> Solution:
    """Each step looks at a second level, where Euler leads, and ends in a combination of sample and both x0.

    second: (level, next level) -> (the second level, factor of x0 there). The last step goes by Euler: to 0 this
        takes x0 at once.
    """
    sigmas = _rounded(sigmas)
    looks, reached, correct, predict = [], [], [], []
    for now, after in pairwise(sigmas):
        twice = after > sigmas[-1]
        middle, weight = second(now, after) if twice else (after, 0.0)
        looks.append(now)
        reached.append(now)
        correct.append(_row(1))
        predict.append(_row(middle / now, 1 - middle / now))
        if twice:
            looks.append(middle)
            reached.append(after)
            correct.append(_row(0, after / now, weight, 1 - after / now - weight))
            predict.append(_row(1))
    corrections, predictions = (np.array(rows).reshape(len(looks), TERMS) for rows in (correct, predict))
    levels = np.array([*looks, sigmas[-1]])
    times = np.array(looks) * TRAIN_TIMESTEPS
    return _solution(levels, times, corrections, predictions, reached=np.array(reached))


# ---- predictor and corrector ----------------------------------------------------------------------------------


def unipc(sigmas: np.ndarray, order: int = 2) -> Solution:
    """UniPC with B(h) = exp(h) - 1 (Zhao et al. 2023, algorithms 5-8), predicting x0.

    Each evaluation of the model first corrects the sample it was made at and then predicts the next one. The
    order rises over the first steps and falls over the last ones.
    """
    sigmas = _below_one(sigmas)
    timesteps, sigmas = _whole(sigmas), _rounded(sigmas)
    correct, predict = _blank(sigmas)
    snr = log_snr(sigmas)
    steps = len(predict)
    orders = [min(order, step + 1, steps - step) for step in range(steps)]
    for step in range(steps):
        predict[step] = _row(*unipc_predict(sigmas, snr, step, orders[step]))
        if step > 0:
            correct[step] = _row(0, *unipc_correct(sigmas, snr, step, orders[step - 1]))
    return _solution(sigmas, timesteps, correct, predict)


def unipc1(sigmas: np.ndarray) -> Solution:
    """UniPC of order 1, whose corrector makes it 2."""
    return unipc(sigmas, order=1)


def unipc3(sigmas: np.ndarray) -> Solution:
    """UniPC of order 3."""
    return unipc(sigmas, order=3)


SOLVERS: dict[str, Callable[[np.ndarray], Solution]] = {
    "unipc": unipc,
    "unipc1": unipc1,
    "unipc3": unipc3,
    "dpmpp_2m": dpmpp_2m,
    "deis": deis,
    "res_2m": res_2m,
    "res_2s": res_2s,
    "euler": euler,
    "heun": heun,
    "euler_ancestral": euler_ancestral,
    "lcm": lcm,
}
TWO_STAGES = frozenset({"heun", "res_2s"})


# ---- parts ----------------------------------------------------------------------------------------------------


def _below_one(sigmas: np.ndarray) -> np.ndarray:
    """Levels at which the log-SNR is finite, also when they are rounded to float32."""
    return np.minimum(sigmas, HIGHEST)


def _whole(sigmas: np.ndarray) -> np.ndarray:
    """Time inputs cut to whole numbers, as diffusers' multistep schedulers do."""
    return np.floor(sigmas[:-1] * TRAIN_TIMESTEPS)


def _rounded(sigmas: np.ndarray) -> np.ndarray:
    """Levels rounded to float32, as diffusers holds them: near 1 the log-SNR shows the difference."""
    return sigmas.astype(np.float32).astype(np.float64)


def _blank(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables that correct nothing and predict nothing yet."""
    steps = len(sigmas) - 1
    return np.tile(_row(1), (steps, 1)), np.zeros((steps, TERMS))


def _row(*factors: float) -> np.ndarray:
    return np.array([*factors, *[0.0] * (TERMS - len(factors))])


def _solution(
    sigmas: np.ndarray,
    timesteps: np.ndarray,
    correct: np.ndarray,
    predict: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    reached: np.ndarray | None = None,
) -> Solution:
    return Solution(
        sigmas,
        timesteps,
        correct,
        predict,
        np.zeros(len(timesteps)) if noise is None else noise,
        sigmas[:-1] if reached is None else reached,
    )
