"""The frontier and the search, on made-up models whose best settings are known."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from wanbatch.jobs.tuning.candidates import NO_CACHE, Candidate, SearchSpace, Trial
from wanbatch.jobs.tuning.goals import parse_goal
from wanbatch.jobs.tuning.search import SHOWN, Search, contenders, frontier
from wanbatch.pipeline.evaluation.metrics import Score

DEFAULT = Candidate("unipc", 30)


def trial(seconds: float, psnr: float, **scores) -> Trial:
    candidate = Candidate("unipc", round(seconds * 100))
    return Trial(candidate, Score(4, psnr, psnr - 1, **scores), seconds, work=seconds * 100)


class World:
    """PSNR grows with the steps by a sampler's own rate; a cache takes a part of both time and quality.

    An adaptive cache with threshold t saves up to 60 % and costs 10 dB for t = 0.64; Taylor saves 40 % for 1 dB.
    """

    RATES = {"unipc": 10.0, "euler": 6.0, "good": 12.0}  # noqa: RUF012

    def __init__(self):
        self.measured: list[Candidate] = []

    def __call__(self, candidate: Candidate) -> Trial:
        assert candidate not in self.measured, "a candidate is measured twice"
        self.measured.append(candidate)
        psnr = self.RATES[candidate.sampler] * math.log2(candidate.steps + 1)
        seconds = candidate.steps * 0.01
        cache, _, gate = candidate.step_cache.partition("+")
        if cache.startswith("adaptive"):
            share = float(re.search(r"threshold=([\d.]+)", cache).group(1)) / 0.64
            psnr, seconds = psnr - 10 * share, seconds * (1 - 0.6 * share)
        elif cache.startswith("taylor"):
            psnr, seconds = psnr - 1, seconds * 0.6
        elif cache != NO_CACHE:
            psnr, seconds = psnr - 5, seconds * 0.8
        if gate:
            psnr, seconds = psnr - 0.1, seconds * 0.7
        return Trial(candidate, Score(4, psnr, psnr - 2, ssim=min(1.0, psnr / 60)), seconds, work=seconds * 100)


def space(samplers=("unipc", "euler", "good"), layers=0, guided=False, evaluations=lambda sampler, steps: steps):
    return SearchSpace(DEFAULT, samplers, evaluations, layers=layers, guided=guided)


def searched(goal, **where) -> tuple[list[Trial], Trial, World]:
    """All trials, the best that meets the goal, and what was measured."""
    world = World()
    trials = Search(space(**where), goal, world).run()
    meeting = [one for one in trials if goal.is_met(one, trials[0])]
    return trials, goal.best(meeting), world


def test_the_frontier_keeps_what_nothing_beats():
    slow, good, bad, fast = trial(0.3, 40), trial(0.2, 41), trial(0.25, 39), trial(0.1, 20)
    assert frontier([slow, good, bad, fast], "psnr") == [fast, good]


def test_times_that_scatter_do_not_shape_the_frontier():
    slow, good, bad, fast = trial(0.3, 40), trial(0.2, 41), trial(0.25, 39), trial(0.1, 20)
    scattered = [replace(slow, seconds=0.1), replace(good, seconds=0.5), bad, replace(fast, seconds=0.6)]
    assert frontier(scattered, "psnr") == [scattered[3], scattered[1]]
    assert contenders(scattered, scattered[0], parse_goal(["psnr>=39"], None)) == [scattered[3], scattered[1]]


def test_lower_lpips_is_better_and_psnr_decides_between_equal_judgements():
    low, high = trial(0.2, 30, lpips=0.1, judge=1.0), trial(0.1, 31, lpips=0.2, judge=1.0)
    assert frontier([low, high], "lpips") == [high, low]
    assert frontier([low, high], "judge") == [high]


def test_the_contenders_stand_around_the_goal():
    trials = [trial(0.01 * n, float(n)) for n in range(1, 40)]
    shown = contenders(trials, trials[-1], parse_goal(["psnr>=20"], None))
    assert len(shown) == SHOWN
    values = [one.score.psnr for one in shown]
    assert 20 in values
    assert min(values) < 20 < max(values)
    assert values == sorted(values)
    assert contenders(trials, trials[-1], parse_goal(["psnr>=99"], None))[-1].score.psnr == 39


def test_the_fastest_that_meets_a_quality():
    """Brute force over all samplers and steps finds no faster one."""
    goal = parse_goal(["psnr>=35"], None)
    trials, best, world = searched(goal)
    everything = [World()(one) for name in World.RATES for one in space().with_step_counts(Candidate(name, 1))]
    expected = goal.best([one for one in everything if goal.is_met(one, trials[0])])
    assert best.candidate == expected.candidate
    assert best.candidate.sampler == "good"
    assert len(world.measured) < len(everything) / 3


def test_the_best_of_a_speed():
    goal = parse_goal([], 3.0)
    trials, best, _ = searched(goal)
    assert trials[0].candidate == DEFAULT
    assert best.candidate == Candidate("good", 8)  # 0.08 s; 10 steps meet it only without the safety
    assert trials[0].seconds / best.seconds >= 3


def test_a_speed_that_only_caches_reach():
    """20 steps are the fewest that the rows allow, and 1.5 times as fast as 30; with a cache 2.5 times."""
    goal = parse_goal([], 2.2)
    where = replace(space(layers=8), is_possible=lambda one: one.steps >= 20)
    trials = Search(where, goal, World()).run()
    assert not any(goal.is_met(one, trials[0]) for one in trials if one.candidate.step_cache == NO_CACHE)
    assert goal.best([one for one in trials if goal.is_met(one, trials[0])]).candidate.sampler == "good"


def test_all_limits_of_a_budget_must_hold():
    _, loose, _ = searched(parse_goal(["psnr>=20"], None))
    _, strict, _ = searched(parse_goal(["psnr>=20", "ssim>=0.7"], None))
    assert strict.seconds > loose.seconds
    assert strict.score.ssim >= 0.7


@pytest.mark.parametrize("speedup", [None, 4.0])
def test_caches_are_tried_where_there_are_blocks(speedup):
    """With caches a goal is met faster, or better, than without; the gate is left alone without guidance."""
    goal = parse_goal([] if speedup else ["psnr>=40"], speedup)
    _, plain, _ = searched(goal)
    _, cached, world = searched(goal, layers=8)
    _, gated, _ = searched(goal, layers=8, guided=True)
    assert cached.candidate.step_cache != NO_CACHE
    if speedup:
        assert gated.score.psnr >= cached.score.psnr > plain.score.psnr
    else:
        assert gated.seconds < cached.seconds < plain.seconds
        assert "+gate" in gated.candidate.step_cache
    assert not any("gate" in candidate.step_cache for candidate in world.measured)
    assert any("blocks=3" in candidate.step_cache for candidate in world.measured)


def test_the_threshold_of_an_adaptive_cache_is_calibrated():
    """24 steps of `good` have 55.7 dB; 50 are reached with a threshold of 0.37 (found to 10 % in five halvings)."""
    world = World()
    search = Search(space(layers=8), parse_goal(["psnr>=50"], None), world)
    search.try_candidate(DEFAULT)
    search.search_threshold(Candidate("good", 24))
    met = [one for one in search.trials.values() if search.meets(one) and "adaptive" in one.candidate.step_cache]
    best = max(float(one.candidate.step_cache.partition("=")[2]) for one in met)
    exact = 0.64 * (12 * math.log2(25) - 50) / 10
    assert exact * 0.8 < best <= exact


@pytest.mark.parametrize("slow", ["good", "even"])
def test_times_that_scatter_do_not_order_samplers(slow):
    """35 dB take 7 steps of `good` and of `even`, which is a bit less good, and 10 of `unipc`."""

    class Scattering(World):
        RATES = {"unipc": 10.5, "even": 11.9, "good": 12.0}  # noqa: RUF012

        def __call__(self, candidate: Candidate) -> Trial:
            trial = super().__call__(candidate)
            return replace(trial, seconds=trial.seconds * (3 if candidate.sampler == slow else 1))

    search = Search(space(samplers=("even", "good")), parse_goal(["psnr>=35"], None), Scattering())
    search.try_candidate(DEFAULT)
    assert search.search_samplers() == [Candidate("good", 7), Candidate("even", 7)]
    search.search_gates()
    assert next(one for one in search.trials if one.step_cache != NO_CACHE).sampler == "good"


def test_samplers_with_two_evaluations_a_step_get_half_the_steps():
    where = space(samplers=("heun",), evaluations=lambda sampler, steps: 2 * steps if sampler == "heun" else steps)
    assert where.with_step_counts(Candidate("heun", 1))[-1].steps == 14
    assert where.with_step_counts(Candidate("unipc", 1), 20) == [Candidate("unipc", n) for n in (20, 24, 28, 30)]


def test_only_what_the_rows_allow_is_tried():
    """And with them, other schedules."""
    world = World()
    where = replace(space(), schedules=("beta", "karras"), is_possible=lambda one: one.steps >= 12)
    trials = Search(where, parse_goal(["psnr>=20"], None), world).run()
    assert min(one.candidate.steps for one in trials) == 12
    assert {one.candidate.schedule for one in trials} == {"linear", "beta", "karras"}
    assert str(Candidate("unipc", 12, "taylor", "beta")) == "unipc, 12 steps, beta, taylor"


def test_a_goal_that_nothing_meets_leaves_the_trials():
    world = World()
    trials = Search(space(layers=8, guided=True), parse_goal(["psnr>=90"], None), world).run()
    assert trials[0].candidate == DEFAULT
    assert not any("adaptive" in one.candidate.step_cache for one in trials)


def test_what_meets_all_limits_is_timed_even_if_it_is_beaten_in_the_first_one():
    default = Trial(DEFAULT, Score(4, 60, 60, ssim=0.99), 5.0, work=50)
    fast = Trial(Candidate("euler", 10), Score(4, 35, 35, ssim=0.94), 1.0, work=10)
    wanted = Trial(Candidate("good", 12), Score(4, 34, 34, ssim=0.96), 1.2, work=12)
    goal = parse_goal(["psnr>=30", "ssim>=0.95"], None)
    shown = contenders([default, fast, wanted], default, goal)
    assert shown == [fast, wanted, default]
    assert goal.best([one for one in shown if goal.is_met(one, default)]) == wanted
    without_the_default = contenders([fast, wanted], default, goal)
    assert [one for one in without_the_default if goal.is_met(one, default)] == [wanted]
