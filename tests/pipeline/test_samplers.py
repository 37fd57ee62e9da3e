"""Solvers and schedules, against diffusers' schedulers and against equations with known solutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from wanbatch.errors import UserError
from wanbatch.pipeline import samplers
from wanbatch.pipeline.denoise import advance

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def field(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """Some smooth velocity that depends on the sample and the time."""
    return torch.tanh(x * 0.7 + 0.3) * (0.4 + timestep / 1000) - 0.2 * x


def run(solution: samplers.Solution, start: torch.Tensor, velocity=field) -> torch.Tensor:
    state = torch.zeros(1, samplers.STATES, *start.shape[1:], dtype=start.dtype)
    state[:, 0] = start
    table = {name: torch.from_numpy(getattr(solution, name)) for name in ("sigmas", "correct", "predict")}
    for step in range(solution.steps):
        v = velocity(state[:, 0], solution.timesteps[step])
        rows = [table[name][step : step + 1] for name in ("sigmas", "correct", "predict")]
        state = advance(state, v, *rows)
    return state[:, 0]


def run_diffusers(scheduler, steps: int, start: torch.Tensor, **options) -> torch.Tensor:
    scheduler.set_timesteps(steps, **options)
    x = start
    for timestep in scheduler.timesteps:
        x = scheduler.step(field(x, float(timestep)), timestep, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_unipc_equals_diffusers(steps, shift):
    start = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = run_diffusers(UniPCMultistepScheduler(flow_shift=shift, **FLOW), steps, start)
    solution = samplers.solve("unipc", steps, shift)
    # diffusers computes its factors in float32
    torch.testing.assert_close(run(solution, start), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_dpmpp_2m_equals_diffusers_on_the_same_levels(steps, shift):
    """diffusers spaces this solver's levels in a way of its own, so ours is given the same ones."""
    start = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scheduler = DPMSolverMultistepScheduler(flow_shift=shift, **FLOW)
    expected = run_diffusers(scheduler, steps, start)
    solution = samplers.dpmpp_2m(scheduler.sigmas.double().numpy())
    solution = replace(solution, timesteps=scheduler.timesteps.numpy())
    torch.testing.assert_close(run(solution, start), expected, rtol=1e-4, atol=2e-5)


def test_third_order_unipc_equals_diffusers():
    start = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = run_diffusers(UniPCMultistepScheduler(flow_shift=3.0, solver_order=3, **FLOW), 20, start)
    ours = run(samplers.unipc(samplers.linear(20, 3.0), order=3), start)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=5e-5)


def test_euler_equals_diffusers_on_the_same_levels():
    start = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solution = samplers.solve("euler", 12, 3.0)
    expected = run_diffusers(FlowMatchEulerDiscreteScheduler(), 12, start, sigmas=list(solution.sigmas[:-1]))
    torch.testing.assert_close(run(solution, start), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("dpmpp_2m", 2), ("unipc", 2)])
def test_order_of_convergence(sampler, order):
    """For data N(mean, 1) and noise N(0, 1) the exact flow is known: x_s keeps its distance from the mean path,
    measured in standard deviations."""
    mean, start_level, end_level = 2.0, 0.9, 0.2

    def spread(s):
        return np.sqrt((1 - s) ** 2 + s**2)

    def velocity_at(s):
        def velocity(x, _timestep):
            z = (x - (1 - s) * mean) / spread(s) ** 2
            return s * z - (mean + (1 - s) * z)  # E[eps | x] - E[x0 | x]

        return velocity

    start = torch.full((1, 1, 1, 1), 1.3, dtype=torch.float64)
    exact = (1 - end_level) * mean + spread(end_level) * (1.3 - (1 - start_level) * mean) / spread(start_level)

    def error(steps):
        sigmas = np.linspace(start_level, end_level, steps + 1)
        solution = samplers.SOLVERS[sampler](sigmas)
        state = torch.zeros(1, samplers.STATES, 1, 1, 1, dtype=torch.float64)
        state[:, 0] = start
        for step in range(steps):
            rows = [torch.from_numpy(a[step : step + 1]) for a in (sigmas, solution.correct, solution.predict)]
            state = advance(state, velocity_at(sigmas[step])(state[:, 0], None), *rows)
        return abs(float(state[0, 0]) - exact)

    slope = np.log2(error(40) / error(80))
    assert slope > order - 0.25


def test_rows_of_different_solvers_step_together_as_alone():
    solutions = [
        samplers.solve("unipc", 8, 3.0),
        samplers.solve("euler", 8, 1.0),
        samplers.solve("dpmpp_2m", 8, 5.0),
    ]
    start = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    state = torch.zeros(3, samplers.STATES, 2, 3, 4)
    state[:, 0] = start
    for step in range(8):
        times = torch.tensor([solution.timesteps[step] for solution in solutions]).view(3, 1, 1, 1)
        v = torch.tanh(state[:, 0] * 0.7 + 0.3) * (0.4 + times.float() / 1000)
        columns = [
            torch.tensor(np.stack([getattr(s, name)[step] for s in solutions]), dtype=torch.float32)
            for name in ("sigmas", "correct", "predict")
        ]
        state = advance(state, v, *columns)

    def velocity(x, timestep):
        return torch.tanh(x * 0.7 + 0.3) * (0.4 + float(timestep) / 1000)

    for row, solution in enumerate(solutions):
        alone = run(solution, start[row : row + 1].double(), velocity)
        torch.testing.assert_close(state[row, 0].double(), alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("creativity", [0.001, 0.05, 0.3, 0.5, 0.77, 0.95, 0.9999, 0.9999999])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_a_cut_schedule_begins_exactly_at_the_creativity_and_falls_to_zero(creativity, steps):
    whole = samplers.linear(steps, 3.0)
    sigmas = samplers.cut(whole, creativity)
    assert sigmas[0] == creativity
    assert sigmas[-1] == 0
    assert np.all(np.diff(sigmas) < 0)
    assert len(sigmas) <= len(whole) + 1
    assert set(sigmas[1:]) <= set(whole)


def test_creativity_one_cuts_nothing_and_zero_leaves_nothing():
    whole = samplers.linear(10, 3.0)
    assert np.array_equal(samplers.cut(whole, 1.0), whole)
    assert samplers.solve("unipc", 10, 3.0, creativity=0.0).steps == 0


def test_an_unknown_sampler_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown sampler 'ddim'; known: unipc, dpmpp_2m, euler"):
        samplers.solve("ddim", 10, 3.0)
