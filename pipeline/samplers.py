"""Noise schedules and solvers, as tables of coefficients.

Flow matching mixes a picture and noise, `x_s = (1 - s) x0 + s eps`, and the model returns the velocity
`v = eps - x0`, so `x0 = x_s - s v`. The initial noise is not scaled and neither is the model's input.

Every solver here steps by a linear combination of a few tensors, with factors that depend on the noise levels
alone. So a solver is a function from noise levels to a table (`Solution`), made once a row on the host in
float64, and one small kernel (`denoise.advance`) steps rows of different solvers, schedules and steps together.

It has no tensors and does not run the model; see `denoise.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wanbatch.errors import UserError

TRAIN_TIMESTEPS = 1000  # the model's time input is sigma times this
HISTORY = 3  # earlier predictions that a solver may use
# What a row carries from step to step: the sample, the (corrected) sample before it, and HISTORY predictions of
# x0, newest first.
STATES = 2 + HISTORY


@dataclass(frozen=True, slots=True)
class Solution:
    """The steps of one row, float64 on the host.

    sigmas: [steps + 1], noise levels, falling, the last one 0.
    timesteps: [steps], the model's time input.
    correct: [steps, 3 + HISTORY], factors of (sample, sample before, x0 now, x0 before, ...) in the corrected sample.
    predict: [steps, 2 + HISTORY], factors of (corrected sample, x0 now, x0 before, ...) in the next sample.
    """

    sigmas: np.ndarray
    timesteps: np.ndarray
    correct: np.ndarray
    predict: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def solve(sampler: str, steps: int, shift: float, creativity: float = 1.0) -> Solution:
    """The table of a row.

    creativity: in [0, 1]; 1 runs the whole schedule, less starts at exactly that noise level, 0 has no step.
    Raises UserError for an unknown sampler.
    """
    solver = SOLVERS.get(sampler)
    if solver is None:
        raise UserError(f"unknown sampler {sampler!r}; known: {', '.join(SOLVERS)}")
    return solver(cut(linear(steps, shift), creativity))


# ---- schedules ------------------------------------------------------------------------------------------------


def linear(steps: int, shift: float) -> np.ndarray:
    """Evenly spaced noise levels, shifted: `s' = k s / (1 + (k - 1) s)` (Esser et al. 2024, section 5.3.2).

    [steps + 1], from just below 1 to 0: the levels of diffusers' `UniPCMultistepScheduler(use_flow_sigmas=True)`,
    which is Wan2.2's own.
    """
    sigmas = np.linspace(1, 1 / TRAIN_TIMESTEPS, steps + 1)[:-1]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    sigmas[0] = min(sigmas[0], 1 - 1e-6)
    return np.append(sigmas, 0.0)


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


# ---- solvers --------------------------------------------------------------------------------------------------


def euler(sigmas: np.ndarray) -> Solution:
    """First order: `x' = x + (s' - s) v`, written with `v = (x - x0) / s`."""
    sigmas = _rounded(sigmas)
    correct, predict = _blank(sigmas)
    ratio = sigmas[1:] / sigmas[:-1]
    predict[:, 0], predict[:, 1] = ratio, 1 - ratio
    return Solution(sigmas, sigmas[:-1] * TRAIN_TIMESTEPS, correct, predict)


def dpmpp_2m(sigmas: np.ndarray) -> Solution:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, algorithm 2), with a first-order last step."""
    timesteps, sigmas = _whole(sigmas), _rounded(sigmas)
    correct, predict = _blank(sigmas)
    log_snr = _log_snr(sigmas)
    for step in range(len(predict)):
        keep, gain, length = _exponential_step(sigmas, log_snr, step)
        predict[step, :2] = keep, gain
        if step > 0 and sigmas[step + 1] > 0:
            slope = gain / 2 * length / (log_snr[step] - log_snr[step - 1])
            predict[step, 1] += slope
            predict[step, 2] -= slope
    return Solution(sigmas, timesteps, correct, predict)


def unipc(sigmas: np.ndarray, order: int = 2) -> Solution:
    """UniPC with B(h) = exp(h) - 1 (Zhao et al. 2023, algorithms 5-8), predicting x0.

    Each evaluation of the model first corrects the sample it was made at and then predicts the next one. The
    order rises over the first steps and falls over the last ones.
    """
    timesteps, sigmas = _whole(sigmas), _rounded(sigmas)
    correct, predict = _blank(sigmas)
    log_snr = _log_snr(sigmas)
    steps = len(predict)
    orders = [min(order, step + 1, steps - step) for step in range(steps)]
    for step in range(steps):
        predict[step] = _unipc_predict(sigmas, log_snr, step, orders[step])
        if step > 0:
            correct[step] = _unipc_correct(sigmas, log_snr, step, orders[step - 1])
    return Solution(sigmas, timesteps, correct, predict)


SOLVERS: dict[str, Callable[[np.ndarray], Solution]] = {"unipc": unipc, "dpmpp_2m": dpmpp_2m, "euler": euler}


def _unipc_predict(sigmas: np.ndarray, log_snr: np.ndarray, step: int, order: int) -> np.ndarray:
    """Factors of (sample, x0 now, x0 before, ...)."""
    factors = np.zeros(2 + HISTORY)
    keep, gain, length = _exponential_step(sigmas, log_snr, step)
    factors[:2] = keep, gain
    if order > 1:
        nodes = (log_snr[step - np.arange(1, order)] - log_snr[step]) / length
        # Order 2 uses its limit for small steps, 1/2, as the authors' code does.
        weights = np.array([0.5]) if order == 2 else _unipc_weights(nodes, length)
        slopes = gain * weights / nodes
        factors[1] -= slopes.sum()
        factors[2 : 1 + order] += slopes
    return factors


def _unipc_correct(sigmas: np.ndarray, log_snr: np.ndarray, step: int, order: int) -> np.ndarray:
    """Factors of (sample, sample before, x0 now, x0 before, ...): the last step again, now that x0 is known here."""
    factors = np.zeros(3 + HISTORY)
    keep, gain, length = _exponential_step(sigmas, log_snr, step - 1)
    nodes = np.append((log_snr[step - 1 - np.arange(1, order)] - log_snr[step - 1]) / length, 1.0)
    weights = np.array([0.5]) if order == 1 else _unipc_weights(nodes, length)
    slopes = gain * weights / nodes
    factors[1], factors[2], factors[3] = keep, slopes[-1], gain - slopes.sum()
    factors[4 : 3 + order] = slopes[:-1]
    return factors


def _unipc_weights(nodes: np.ndarray, length: float) -> np.ndarray:
    """Solve the order conditions: for n nodes r, sum_k w_k r_k^(i-1) = i! phi_(i+1)(-h) / (exp(-h) - 1), i = 1..n."""
    count = len(nodes)
    moments = np.empty(count)
    phi, factorial = np.expm1(-length) / -length - 1, 1.0
    for index in range(count):
        moments[index] = phi * factorial / np.expm1(-length)
        factorial *= index + 2
        phi = phi / -length - 1 / factorial
    return np.linalg.solve(nodes[None, :] ** np.arange(count)[:, None], moments)


def _exponential_step(sigmas: np.ndarray, log_snr: np.ndarray, step: int) -> tuple[float, float, float]:
    """Factors of sample and x0 if x0 stayed constant over the step, and the step's length in log-SNR."""
    length = log_snr[step + 1] - log_snr[step]
    return sigmas[step + 1] / sigmas[step], (1 - sigmas[step + 1]) * -np.expm1(-length), length


def _log_snr(sigmas: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log1p(-sigmas) - np.log(sigmas)


def _whole(sigmas: np.ndarray) -> np.ndarray:
    """Time inputs cut to whole numbers, as diffusers' multistep schedulers do."""
    return np.floor(sigmas[:-1] * TRAIN_TIMESTEPS)


def _rounded(sigmas: np.ndarray) -> np.ndarray:
    """Levels rounded to float32, as diffusers holds them: near 1 the log-SNR shows the difference."""
    return sigmas.astype(np.float32).astype(np.float64)


def _blank(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps = len(sigmas) - 1
    correct, predict = np.zeros((steps, 3 + HISTORY)), np.zeros((steps, 2 + HISTORY))
    correct[:, 0] = 1
    return correct, predict
