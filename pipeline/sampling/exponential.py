"""What exponential integrators are made of: steps in the log-SNR `log((1 - s) / s)`.

If x0 stays constant, `x' = (s' / s) x + (1 - s' / s) x0` is exact for a step of any length h. Higher orders let x0
follow a polynomial in the log-SNR; its powers are integrated with the functions phi_k of docs/samplers.md. All
factors are float64, of (sample at the step's start, ...) as each function says.
"""

from __future__ import annotations

import numpy as np


def log_snr(sigmas: np.ndarray) -> np.ndarray:
    """Of noise levels; infinite at 0."""
    with np.errstate(divide="ignore"):
        return np.log1p(-sigmas) - np.log(sigmas)


def first_order(sigmas: np.ndarray, snr: np.ndarray, step: int) -> tuple[float, float, float]:
    """Factors of sample and x0 if x0 stayed constant over the step, and the step's length in log-SNR."""
    length = snr[step + 1] - snr[step]
    return sigmas[step + 1] / sigmas[step], (1 - sigmas[step + 1]) * -np.expm1(-length), length


def phi_ratio(length: float) -> float:
    """phi_2(-h) / phi_1(-h), with phi_1(z) = (exp(z) - 1) / z and phi_2(z) = (phi_1(z) - 1) / z."""
    return 1 / -np.expm1(-length) - 1 / length


def unipc_predict(sigmas: np.ndarray, snr: np.ndarray, step: int, order: int) -> np.ndarray:
    """Factors of (sample, x0 now, x0 before, ...) in the next sample."""
    keep, gain, length = first_order(sigmas, snr, step)
    if order == 1:
        return np.array([keep, gain])
    nodes = (snr[step - np.arange(1, order)] - snr[step]) / length
    # Order 2 uses its limit for small steps, 1/2, as the authors' code does.
    weights = np.array([0.5]) if order == 2 else _weights(nodes, length)
    slopes = gain * weights / nodes
    return np.array([keep, gain - slopes.sum(), *slopes])


def unipc_correct(sigmas: np.ndarray, snr: np.ndarray, step: int, order: int) -> np.ndarray:
    """Factors of (sample before, x0 now, x0 before, ...) in this sample, now that x0 is known here."""
    keep, gain, length = first_order(sigmas, snr, step - 1)
    nodes = np.append((snr[step - 1 - np.arange(1, order)] - snr[step - 1]) / length, 1.0)
    weights = np.array([0.5]) if order == 1 else _weights(nodes, length)
    slopes = gain * weights / nodes
    return np.array([keep, slopes[-1], gain - slopes.sum(), *slopes[:-1]])


def _weights(nodes: np.ndarray, length: float) -> np.ndarray:
    """Solve the order conditions: for n nodes r, sum_k w_k r_k^(i-1) = i! phi_(i+1)(-h) / (exp(-h) - 1), i = 1..n."""
    count = len(nodes)
    moments = np.empty(count)
    phi, factorial = np.expm1(-length) / -length - 1, 1.0
    for index in range(count):
        moments[index] = phi * factorial / np.expm1(-length)
        factorial *= index + 2
        phi = phi / -length - 1 / factorial
    return np.linalg.solve(nodes[None, :] ** np.arange(count)[:, None], moments)
