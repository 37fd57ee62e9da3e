"""Solvers on Gaussian data, where the exact flow and the exact marginals are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_runs import Gaussian, trajectory

from wanbatch.pipeline.core.conditioning import step_noise
from wanbatch.pipeline.sampling import solvers

ORDERS = {
    "euler": 1,
    "heun": 2,
    "dpmpp_2m": 2,
    "deis": 2,
    "res_2m": 2,
    "res_2s": 2,
    "unipc": 2,
    "unipc1": 2,
    "unipc3": 3,
}
STOCHASTIC = ("euler_ancestral", "lcm")
DATA = Gaussian(mean=2.0, std=0.5)
NARROW_AND_WIDE = Gaussian(2.0, torch.tensor([0.1, 0.3, 0.6, 1.0, 1.5], dtype=torch.float64)[:, None])


def test_every_solver_is_looked_at():
    assert {*ORDERS, *STOCHASTIC} == set(solvers.SOLVERS)


def error(sampler: str, steps: int) -> float:
    """At level 0.2, from 0.9, in that many equal steps; more levels follow, so that UniPC's order does not fall.

    Root of the mean square over many starts and five widths of the data: an error that changes its sign between two
    numbers of steps, as single ones do, would show any order.
    """
    fall = 0.7 / steps
    solution = solvers.SOLVERS[sampler](np.append(0.9 - fall * np.arange(steps + 3), 0.0))
    begin = torch.linspace(-2, 4, 7, dtype=torch.float64).expand(1, 1, 5, 7)
    found = trajectory([solution], begin, NARROW_AND_WIDE.velocity, times="sigmas")
    last = steps * (2 if sampler in solvers.TWO_STAGES else 1)
    start, end = float(solution.sigmas[0]), float(solution.sigmas[last])
    assert end == pytest.approx(0.2, abs=1e-6)
    return float((found[last - 1] - NARROW_AND_WIDE.flow(begin, start, end)).square().mean().sqrt())


@pytest.mark.parametrize(("sampler", "order"), ORDERS.items())
def test_order_of_convergence(sampler, order):
    slopes = [np.log2(error(sampler, steps) / error(sampler, 2 * steps)) for steps in (80, 160)]
    assert all(order - 0.15 < slope < order + 1.1 for slope in slopes), slopes


@pytest.mark.parametrize("sampler", ORDERS)
def test_the_whole_schedule_ends_at_the_exact_picture(sampler):
    """From noise to 0, the first level included, where the log-SNR is almost infinite; in float32, as it is run."""
    begin = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    solution = solvers.solve(sampler, 100, 3.0)
    found = trajectory([solution], begin, DATA.velocity, times="sigmas")[-1]
    atol = {"euler": 0.05, "unipc1": 0.02}.get(sampler, 0.01)
    torch.testing.assert_close(found, DATA.flow(begin, solution.sigmas[0], 0.0), rtol=0, atol=atol)


def run_many(solution: solvers.Solution, velocity) -> torch.Tensor:
    """Last samples [seeds, pixels] of rows that differ in their seeds alone."""
    seeds, shape = range(16), (1, 64, 64)
    begin = torch.stack([step_noise(seed, -1, shape) for seed in seeds])

    def noise(step: int) -> torch.Tensor:
        return torch.stack([step_noise(seed, step, shape) for seed in seeds])

    found = trajectory([solution] * len(seeds), begin, velocity, noise, times="sigmas")
    return found[-1].flatten(1)


def moments(solution: solvers.Solution) -> tuple[float, float]:
    """Mean and deviation of a stochastic solver's samples of `DATA` with the exact velocity, by its factors alone."""
    mean, variance = 0.0, 1.0
    for step, s in enumerate(solution.sigmas[:-1]):
        slope = (1 - s) * DATA.std**2 / DATA.spread(s) ** 2  # x0(x) is a straight line
        offset = DATA.mean * (1 - slope * (1 - s))
        keep, gain = solution.predict[step, :2]
        mean = (keep + gain * slope) * mean + gain * offset
        variance = (keep + gain * slope) ** 2 * variance + solution.noise[step] ** 2
    return mean, variance**0.5


@pytest.mark.parametrize("schedule", ["linear", "karras"])
def test_ancestral_samples_have_the_moments_that_their_factors_tell(schedule):
    """65,536 pixels: standard errors are 0.002 of the mean and 0.0014 of the deviation."""
    solution = solvers.solve("euler_ancestral", 24, 3.0, schedule=schedule)
    found = run_many(solution, DATA.velocity)
    mean, deviation = moments(solution)
    assert float(found.mean()) == pytest.approx(mean, abs=0.008)
    assert float(found.std()) == pytest.approx(deviation, abs=0.006)
    assert float(found.mean(dim=1).std()) == pytest.approx(deviation / 64, rel=0.5)  # seeds are independent


@pytest.mark.parametrize("schedule", ["linear", "karras", "beta"])
def test_ancestral_moments_approach_those_of_the_data(schedule):
    """At first order: with twice the steps, half the error is left."""

    def error(steps: int) -> float:
        mean, deviation = moments(solvers.solve("euler_ancestral", steps, 3.0, schedule=schedule))
        return abs(mean - DATA.mean) + abs(deviation - DATA.std)

    slopes = [np.log2(error(steps) / error(2 * steps)) for steps in (100, 200, 400)]
    assert all(0.8 < slope < 1.3 for slope in slopes), slopes
    assert error(800) < 0.005


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm_samples_have_the_mean_and_the_variance_of_the_data_at_any_number_of_steps(steps):
    """With a model that is consistent (its x0 is where the flow ends), as distilled weights should be."""

    def consistent(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (x - DATA.flow(x, s, 0.0)) / s

    found = run_many(solvers.solve("lcm", steps, 3.0), consistent)
    assert float(found.mean()) == pytest.approx(DATA.mean, abs=0.01)
    assert float(found.std()) == pytest.approx(DATA.std, abs=0.01)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_marginals_at_every_step(sampler):
    """Each step takes the right marginal to the right one, if x0 is known: mean and variance by the factors alone."""
    solution = solvers.solve(sampler, 12, 3.0)
    x0, mean, variance = 1.7, 1.7 * (1 - solution.sigmas[0]), solution.sigmas[0] ** 2
    for step, after in enumerate(solution.sigmas[1:]):
        keep, gain = solution.predict[step, :2]
        mean, variance = keep * mean + gain * x0, keep**2 * variance + solution.noise[step] ** 2
        assert mean == pytest.approx((1 - after) * x0, abs=1e-12)
        assert variance == pytest.approx(after**2, abs=1e-12)
