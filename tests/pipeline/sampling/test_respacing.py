"""Where the steps of a row go that starts below 1: kept as the schedule has them, or spaced anew below the start."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wanbatch.errors import UserError
from wanbatch.pipeline.sampling import schedules
from wanbatch.pipeline.sampling.schedules import KEEP, RESPACE, levels, steps_after_cut
from wanbatch.pipeline.sampling.solvers import SOLVERS, TWO_STAGES, evaluations, evaluations_of_steps, solve


def test_linear_levels_against_a_schedule_made_by_hand():
    """Shift 3, so 0.5 is where 0.25 is taken; from there three steps of (0.25 - 0.001) / 4 each, then 0."""
    found = levels(4, 3.0, 0.5, "linear", None, RESPACE)
    even = [0.25, 0.18775, 0.1255, 0.06325]
    shifted = [3 * level / (1 + 2 * level) for level in even]
    np.testing.assert_allclose(found, [*shifted, 0.0], rtol=1e-14)
    assert found[0] == 0.5


def test_karras_levels_against_a_schedule_made_by_hand():
    last = 3 * (0.25 - 3 * 0.24900 / 4) / (1 + 2 * (0.25 - 3 * 0.24900 / 4))
    roots = [0.5 ** (1 / 7) + (last ** (1 / 7) - 0.5 ** (1 / 7)) * part / 3 for part in range(4)]
    np.testing.assert_allclose(levels(4, 3.0, 0.5, "karras", None, RESPACE), [*(r**7 for r in roots), 0], rtol=1e-12)


@pytest.mark.parametrize("schedule", schedules.SPACINGS)
@pytest.mark.parametrize("creativity", [0.02, 0.2, 0.3, 0.6, 0.97, 0.999999])
@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (2, 0.5), (50, 5.0), (30, 1.0)])
def test_all_steps_lie_between_the_creativity_and_zero(schedule, creativity, steps, shift):
    """With `keep`, 50 steps at shift 5 are 4 at creativity 0.3."""
    found = levels(steps, shift, creativity, schedule, None, RESPACE)
    assert len(found) == steps + 1
    assert (found[0], found[-1]) == (creativity, 0.0)
    assert (np.diff(found) < 0).all()


@pytest.mark.parametrize("schedule", schedules.SCHEDULER_LEVELS)
@pytest.mark.parametrize("creativity", [0.3, 0.6, 0.97, 0.999999])
@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (2, 0.5), (50, 5.0), (30, 1.0)])
def test_levels_of_other_schedulers_are_spaced_anew_too(schedule, creativity, steps, shift):
    found = levels(steps, shift, creativity, schedule, None, RESPACE)
    assert len(found) == (steps if schedule == "deis_flow" else steps + 1)
    assert found[0] == creativity
    assert (np.diff(found) < 0).all()
    assert (found[-1] == 0) == (schedule != "deis_flow")


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_a_start_at_1_is_the_whole_schedule_and_0_is_none(schedule):
    assert np.array_equal(levels(20, 5.0, 1.0, schedule, None, RESPACE), levels(20, 5.0, 1.0, schedule))
    assert levels(20, 5.0, 0.0, schedule, None, RESPACE).tolist() == [0.0]


def test_explicit_levels_are_always_kept():
    given = (0.9, 0.5, 0.2)
    assert np.array_equal(levels(3, None, 0.6, None, given, RESPACE), levels(3, None, 0.6, None, given))


def test_no_room_is_told_with_the_remedy():
    with pytest.raises(UserError, match=r"creativity 0.001 leaves no room for 50 steps .*: raise it or take fewer"):
        levels(50, 5.0, 0.001, "linear", None, RESPACE)
    assert len(levels(1, 5.0, 0.001, "linear", None, RESPACE)) == 2


def released(steps: int, shift: float, creativity: float, schedule: str) -> np.ndarray:
    """The levels as release 0.1.0 made them, in its own words, so that not even the last bit may differ."""
    linear = np.linspace(1, 1 / 1000, steps + 1)[:-1]
    linear = shift * linear / (1 + (shift - 1) * linear)
    linear[0] = min(linear[0], 1 - 1e-6)
    first, last = float(linear[0]), float(linear[-1])
    if schedule == "karras":
        levels = np.linspace(first ** (1 / 7.0), last ** (1 / 7.0), steps) ** 7.0
    elif schedule == "exponential":
        levels = np.exp(np.linspace(math.log(first), math.log(last), steps))
    elif schedule == "beta":
        levels = last + (first - last) * schedules.beta_quantile(1 - np.linspace(0, 1, steps), 0.6)
    else:
        levels = linear
    sigmas = np.append(levels, 0.0)
    if creativity in (0, 1):
        return sigmas if creativity else np.zeros(1)
    below = int(np.argmax(sigmas < creativity))
    above = sigmas[below - 1] if below > 0 else 1.0
    last_one = below == len(sigmas) - 1
    if not last_one and creativity - sigmas[below] < (above - sigmas[below]) / 2:
        below += 1
    return np.concatenate([[creativity], sigmas[below:]])


@pytest.mark.parametrize("schedule", schedules.SPACINGS)
@pytest.mark.parametrize("more", [(), (KEEP,), (None,)])
def test_keep_has_the_bits_that_it_always_had(schedule, more):
    for steps, shift in [(steps, shift) for steps in (1, 4, 30, 50) for shift in (0.5, 3.0, 5.0)]:
        for creativity in (1.0, 0.9999, 0.9, 0.6, 0.3, 0.2, 0.05, 0.0):
            found = levels(steps, shift, creativity, schedule, None, *more)
            assert found.tobytes() == released(steps, shift, creativity, schedule).tobytes()


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_steps_after_a_cut_are_those_of_the_cut_schedule(schedule):
    starts = np.concatenate([np.linspace(0, 1, 1001), schedules.levels(7, 3.0, schedule=schedule)])
    for steps in (1, 2, 7, 50):
        whole = levels(steps, 3.0, schedule=schedule)
        expected = [len(schedules.cut(whole, float(start))) - 1 for start in starts]
        assert steps_after_cut(whole, starts).tolist() == expected


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("mode", [KEEP, RESPACE])
@pytest.mark.parametrize("schedule", ["linear", "flow_match", "dpmpp_flow", "deis_flow"])
def test_evaluations_are_the_steps_of_the_solution(sampler, mode, schedule):
    for creativity in (0.0, 0.35, 0.7, 1.0):
        given = (10, 3.0, creativity, schedule, None, mode)
        solution = solve(sampler, *given)
        assert evaluations(sampler, levels(*given)) == solution.steps
        steps = np.array([len(levels(*given)) - 1])
        assert evaluations_of_steps(sampler, steps).tolist() == [solution.steps]
    steps = 9 if schedule == "deis_flow" else 10
    assert solution.steps == (2 * steps - 1 if sampler in TWO_STAGES else steps)
