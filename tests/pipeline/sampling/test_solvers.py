"""Solvers against diffusers' schedulers, over whole trajectories in float64.

diffusers' schedulers hold their levels in float32 and some of them compute in it. Where a scheduler computes in the
type of its levels, it is given ours in float64, so that what is compared is the method alone. What else must be
told to make the two alike is said at each scheduler.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
    UniPCMultistepScheduler,
)
from solver_runs import trajectory
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.sampling import solvers
from wanbatch.pipeline.sampling.schedules import SCHEDULES, SPACINGS, levels

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
STEPS = [1, 2, 3, 5, 14, 30, 50]
SHIFTS = [1.0, 3.0, 5.0]
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def field(x: Tensor, timestep: Tensor) -> Tensor:
    """Some smooth velocity that depends on the sample and the time."""
    return torch.tanh(x * 0.7 + 0.3) * (0.4 + timestep / 1000) - 0.2 * x


def start() -> Tensor:
    return torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def ours(solution: solvers.Solution, drawn_in: torch.dtype = torch.float64) -> Tensor:
    """Samples after every step, [steps, ...]. drawn_in: type of the noise, from the same stream as in `theirs`."""
    generator = torch.Generator().manual_seed(3)

    def draw(_step: int) -> Tensor:
        return torch.randn(start().shape, dtype=drawn_in, generator=generator).double()

    return torch.cat(trajectory([solution], start(), field, draw))


def theirs(scheduler, **options) -> Tensor:
    """Samples after every step of a scheduler whose timesteps are set, [steps, ...]."""
    x, found = start(), []
    for timestep in scheduler.timesteps:
        x = scheduler.step(field(x, timestep), timestep, x, return_dict=False, **options)[0]
        found.append(x)
    return torch.cat(found).double()


def given(scheduler, solution: solvers.Solution, sigmas: np.ndarray | None = None):
    """The scheduler with our levels and times put in place of its own, in float64."""
    scheduler.set_timesteps(solution.steps)
    scheduler.sigmas = torch.from_numpy(solution.sigmas if sigmas is None else sigmas)
    scheduler.timesteps = torch.from_numpy(solution.timesteps)
    scheduler.set_begin_index(0)  # equal timesteps (two levels in one thousandth) would be looked up wrongly
    return scheduler


# ---- the model's own solver, its schedule included -----------------------------------------------------------


NAMES = {1: "unipc1", 2: "unipc", 3: "unipc3"}


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
def test_unipc_equals_diffusers(steps, shift, order):
    scheduler = UniPCMultistepScheduler(flow_shift=shift, solver_order=order, **FLOW)
    scheduler.set_timesteps(steps)
    solution = solvers.solve(NAMES[order], steps, shift)
    assert np.array_equal(solution.timesteps, scheduler.timesteps.numpy())
    assert np.array_equal(solution.sigmas, scheduler.sigmas.double().numpy())
    scheduler.sigmas = scheduler.sigmas.double()
    torch.testing.assert_close(ours(solution), theirs(scheduler), **EXACT)


# ---- every schedule -------------------------------------------------------------------------------------------

EVERY = list(product(SPACINGS, [2, 5, 14, 30], [1.0, 5.0]))


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
@pytest.mark.parametrize("order", NAMES)
def test_unipc_equals_diffusers_on_every_schedule(schedule, steps, shift, order):
    """diffusers' UniPC takes Karras levels from the betas of another model and gives `use_beta_sigmas` and
    `use_exponential_sigmas` levels above 1, also with `use_flow_sigmas`: so it is given ours."""
    solution = solvers.solve(NAMES[order], steps, shift, schedule=schedule)
    scheduler = given(UniPCMultistepScheduler(solver_order=order, **FLOW), solution)
    torch.testing.assert_close(ours(solution), theirs(scheduler), **EXACT)


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_dpmpp_2m_equals_diffusers_on_every_schedule(schedule, steps, shift):
    """diffusers spaces this solver's flow levels in a way of its own (`1 - linspace`, from 0.999 down), and the
    others as UniPC does: so it is given ours."""
    solution = solvers.solve("dpmpp_2m", steps, shift, schedule=schedule)
    scheduler = given(DPMSolverMultistepScheduler(**FLOW), solution)
    torch.testing.assert_close(ours(solution), theirs(scheduler), **EXACT)


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_deis_equals_diffusers_on_every_schedule(schedule, steps, shift):
    """diffusers' DEIS repeats its last level instead of going to 0: the last evaluation changes nothing and the
    noise of that level stays in the picture. Ours goes to 0 in that step; all before it is alike."""
    solution = solvers.solve("deis", steps, shift, schedule=schedule)
    ending = np.append(solution.sigmas[:-1], solution.sigmas[-2])
    scheduler = given(DEISMultistepScheduler(**FLOW), solution, ending)
    found = theirs(scheduler)
    torch.testing.assert_close(ours(solution)[:-1], found[:-1], **EXACT)
    torch.testing.assert_close(found[-1], found[-2])


def test_diffusers_deis_of_its_own_accord_never_leaves_its_last_level():
    scheduler = DEISMultistepScheduler(flow_shift=5.0, **FLOW)
    scheduler.set_timesteps(20)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2] > 0.2


# ---- flow-matching schedulers ---------------------------------------------------------------------------------
# They shift twice if they make their own levels: the ends when they are built, then all levels. So they are given
# unshifted levels (Euler, LCM) and shift once, or a shift of 1 and ends of ours (Heun). They compute in float32.


def unshifted(steps: int) -> list[float]:
    return list(np.linspace(1, 1 / 1000, steps + 1)[:-1])


def options(schedule: str) -> dict[str, bool]:
    return {} if schedule == "linear" else {f"use_{schedule}_sigmas": True}


def flow_scheduler(cls, schedule: str, steps: int, shift: float):
    if schedule == "beta":
        pytest.importorskip("scipy", reason="diffusers' beta levels need it")
    scheduler = cls(shift=shift, **options(schedule))
    scheduler.set_timesteps(sigmas=unshifted(steps))
    return scheduler


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_every_schedule_equals_diffusers(schedule, steps, shift):
    scheduler = flow_scheduler(FlowMatchEulerDiscreteScheduler, schedule, steps, shift)
    # ours begin 1e-6 below 1, where the log-SNR is still finite
    np.testing.assert_allclose(levels(steps, shift, schedule=schedule), scheduler.sigmas.numpy(), rtol=2e-6)


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_euler_equals_diffusers(schedule, steps, shift):
    scheduler = flow_scheduler(FlowMatchEulerDiscreteScheduler, schedule, steps, shift)
    solution = solvers.solve("euler", steps, shift, schedule=schedule)
    torch.testing.assert_close(ours(solution), theirs(scheduler), **EXACT)


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_lcm_equals_diffusers(schedule, steps, shift):
    scheduler = flow_scheduler(FlowMatchLCMScheduler, schedule, steps, shift)
    solution = solvers.solve("lcm", steps, shift, schedule=schedule)
    found = theirs(scheduler, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours(solution), found, **EXACT)


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_euler_ancestral_equals_diffusers(schedule, steps, shift):
    """diffusers has the rectified-flow form for LTX only; it takes levels with the final 0 and does not shift."""
    solution = solvers.solve("euler_ancestral", steps, shift, schedule=schedule)
    scheduler = LTXEulerAncestralRFScheduler()
    scheduler.set_timesteps(sigmas=list(solution.sigmas))
    scheduler.timesteps = scheduler.timesteps[:-1]  # its own end with one for level 0
    found = theirs(scheduler, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours(solution, drawn_in=torch.float32), found, **EXACT)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 14, 30])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_heun_equals_diffusers(steps, shift):
    """diffusers' Heun takes no levels and has no other schedules. With a shift of 1 its levels are evenly spaced
    between two ends that it takes from attributes; ours are then given the same."""
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.sigma_max, scheduler.sigma_min = 1 - 1e-6, levels(steps, shift)[-2]
    scheduler.set_timesteps(steps)
    solution = solvers.heun(np.append(np.linspace(scheduler.sigma_max, scheduler.sigma_min, steps), 0.0))
    assert solution.steps == len(scheduler.timesteps) == 2 * steps - 1
    torch.testing.assert_close(ours(solution), theirs(scheduler), **EXACT)


@pytest.mark.parametrize(("schedule", "steps", "shift"), EVERY)
def test_heun_equals_diffusers_on_every_schedule(schedule, steps, shift):
    solution = solvers.solve("heun", steps, shift, schedule=schedule)
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.from_numpy(solution.sigmas)
    scheduler.timesteps = torch.from_numpy(solution.timesteps)
    torch.testing.assert_close(ours(solution), theirs(scheduler), **EXACT)


# ---- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", solvers.SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("creativity", [0.0, 0.4, 0.77, 1.0])
def test_evaluations_are_counted_without_the_table(sampler, steps, creativity):
    noise_levels = levels(steps, 1.0, creativity)
    solution = solvers.SOLVERS[sampler](noise_levels)
    assert solvers.evaluations(sampler, noise_levels) == solution.steps
    assert solution.sigmas.shape == (solution.steps + 1,)
    assert solution.correct.shape == solution.predict.shape == (solution.steps, solvers.TERMS)
    assert solution.noise.shape == (solution.steps,)
    twice = sampler in ("heun", "res_2s")
    intervals = len(noise_levels) - 1
    assert solution.steps == (max(0, 2 * intervals - 1) if twice else intervals)


@pytest.mark.parametrize("sampler", solvers.SOLVERS)
@pytest.mark.parametrize(
    ("schedule", "creativity"), [("linear", 1.0), ("linear", 0.3), ("beta", 0.6), ("karras", 0.99)]
)
def test_a_picture_that_the_model_is_sure_of_is_reached_and_kept(sampler, schedule, creativity):
    """From noise and from the level that image-to-image starts at. If x0 is the same at every level, each sample is
    the mixture at its level and the last one x0: factors add up to what flow matching asks for."""
    x0, eps = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64), torch.full((1, 1, 1, 1), -0.7, dtype=torch.float64)
    solution = solvers.solve(sampler, 12, 3.0, creativity, schedule)
    s = solution.sigmas[0]
    assert s == pytest.approx(creativity, abs=2e-6)
    found = trajectory([solution], (1 - s) * x0 + s * eps, lambda x, s: (x - x0) / s, lambda _: eps, times="sigmas")
    if not solution.noise.any():
        for sample, s in zip(found, solution.sigmas[1:], strict=True):
            torch.testing.assert_close(sample, (1 - s) * x0 + s * eps, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[-1], x0, rtol=0, atol=1e-9)


def mixed_solutions() -> list[solvers.Solution]:
    """Rows of every solver, with different schedules, lengths and starts."""
    kinds = zip(solvers.SOLVERS, [*SCHEDULES] * 3, range(4, 15), [1.0, 0.8, 0.63] * 4, strict=False)
    return [solvers.solve(name, steps, 3.0, creativity, schedule) for name, schedule, steps, creativity in kinds]


def test_a_mixed_batch_gives_what_single_rows_give_bit_for_bit():
    solutions = mixed_solutions()
    assert len(solutions) == len(solvers.SOLVERS)
    count, most = len(solutions), max(solution.steps for solution in solutions)
    generator = torch.Generator().manual_seed(1)
    begin = torch.randn(count, 4, 6, 10, generator=generator)
    fresh = torch.randn(most, count, 4, 6, 10, generator=generator)
    together = trajectory(solutions, begin, field, lambda step: fresh[step])
    for row, solution in enumerate(solutions):
        one = slice(row, row + 1)
        alone = trajectory([solution], begin[one], field, lambda step, one=one: fresh[step, one])
        assert torch.equal(alone[-1][0].view(torch.int32), together[-1][row].view(torch.int32))
        assert not torch.equal(alone[-1][0], begin[row])


def test_an_unknown_sampler_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"unknown sampler 'ddim'; known: unipc, unipc1, unipc3, dpmpp_2m, deis, res_2m, res_2s"
    ):
        solvers.solve("ddim", 10, 3.0)
