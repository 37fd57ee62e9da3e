"""Noise schedules: their ends, their explicit form, and the cut that image-to-image makes."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from wanbatch.errors import UserError
from wanbatch.pipeline.sampling import schedules, solvers


@pytest.mark.parametrize("schedule", schedules.SPACINGS)
@pytest.mark.parametrize("shift", [0.5, 1.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 50, 1000])
def test_levels_fall_from_just_below_one_to_zero(schedule, shift, steps):
    found = schedules.levels(steps, shift, schedule=schedule)
    assert len(found) == steps + 1
    assert found[0] == pytest.approx(1 - 1e-6, abs=1e-12)
    assert found[-1] == 0
    assert np.all(np.diff(found.astype(np.float32)) < 0)
    assert found[-2] == pytest.approx(schedules.linear(steps, shift)[-2], rel=1e-9)


def test_schedules_differ_between_their_ends():
    """At the middle of 20 steps with the shift of the full-size model."""
    middle = {name: schedules.levels(20, 5.0, schedule=name)[10] for name in schedules.SCHEDULES}
    assert middle["exponential"] < middle["karras"] < middle["beta"] < middle["linear"]


def test_beta_quantiles_are_those_of_the_distribution():
    probability = np.linspace(0, 1, 41)
    found = schedules.beta_quantile(probability, schedules.BETA_SHAPE)
    back = [float(mpmath.betainc(0.6, 0.6, 0, x, regularized=True)) for x in found]
    np.testing.assert_allclose(back, probability, rtol=0, atol=1e-14)


def test_explicit_levels_are_taken_as_they_are():
    found = schedules.levels(0, None, schedule=None, sigmas=[1.0, 0.9375, 0.5])
    assert list(found) == [1 - 1e-6, 0.9375, 0.5, 0.0]
    assert list(schedules.levels(0, None, 0.8, None, [1.0, 0.9375, 0.5])) == [0.8, 0.5, 0.0]


@pytest.mark.parametrize(
    "sigmas",
    [[], [0.5, 0.5], [0.5, 0.6], [1.1, 0.5], [0.5, 0.0], [0.5, -0.1], [1.0, 0.999999], [float("nan")], [0.000001]],
)
def test_explicit_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(UserError, match=r"noise levels in \(0, 1\], each at least 0.00001 below the one before"):
        schedules.levels(0, None, sigmas=sigmas)


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown schedule 'cosine'; known: linear, karras, exponential, beta, flow"):
        schedules.levels(10, 3.0, schedule="cosine")


def test_a_schedule_has_steps():
    with pytest.raises(UserError, match=r"at least 1 step, not shift 3\.0 and 0 steps"):
        schedules.levels(0, 3.0)


@pytest.mark.parametrize("schedule", schedules.SCHEDULER_LEVELS)
@pytest.mark.parametrize("shift", [0.5, 1.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 50, 1000])
def test_the_levels_of_other_schedulers_fall(schedule, shift, steps):
    found = schedules.levels(steps, shift, schedule=schedule)
    assert 0.99 < found[0] <= 1
    assert np.all(np.diff(found.astype(np.float32)) < 0)
    assert (len(found), found[-1] == 0) == ((steps, False) if schedule == "deis_flow" else (steps + 1, True))


@pytest.mark.parametrize("sampler", solvers.SOLVERS)
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
@pytest.mark.parametrize("creativity", [1.0, 0.99999999, 0.9999995, 0.999999, 0.6])
def test_every_table_is_finite(sampler, schedule, creativity):
    """Just below 1, float32 rounds to 1 itself, where the log-SNR is infinite: the factors were not numbers."""
    solution = solvers.solve(sampler, 8, 3.0, creativity, schedule)
    for factors in (solution.correct, solution.predict, solution.noise):
        assert np.isfinite(factors).all()


def test_a_start_below_the_end_of_a_schedule_that_keeps_its_noise_leaves_no_step():
    whole = schedules.deis_flow(6, 3.0)
    assert schedules.lowest_level(whole) == whole[-1] > 0.3
    assert list(schedules.cut(whole, 0.2)) == [0.2]
    assert list(schedules.cut(whole, whole[-1] + 1e-3)) == [whole[-1] + 1e-3, whole[-1]]


@pytest.mark.parametrize("creativity", [0.001, 0.05, 0.3, 0.5, 0.77, 0.95, 0.9999, 0.9999999])
@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("schedule", [name for name in schedules.SCHEDULES if name != "deis_flow"])
def test_a_cut_schedule_begins_exactly_at_the_creativity_and_falls_to_zero(creativity, steps, schedule):
    whole = schedules.levels(steps, 3.0, schedule=schedule)
    sigmas = schedules.cut(whole, creativity)
    assert sigmas[0] == min(creativity, schedules.HIGHEST)
    assert sigmas[-1] == 0
    assert np.all(np.diff(sigmas) < 0)
    assert len(sigmas) <= len(whole) + 1
    assert set(sigmas[1:]) <= set(whole)


def test_creativity_one_cuts_nothing_and_zero_leaves_nothing():
    whole = schedules.linear(10, 3.0)
    assert np.array_equal(schedules.cut(whole, 1.0), whole)
    for sampler in solvers.SOLVERS:
        assert solvers.solve(sampler, 10, 3.0, creativity=0.0).steps == 0
