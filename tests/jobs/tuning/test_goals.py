"""Budgets and speed-ups: which are understood, what they ask for, and when they are met."""

from __future__ import annotations

import math

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.tuning.candidates import Candidate, Trial
from wanbatch.jobs.tuning.goals import Limit, QualityGoal, parse_goal
from wanbatch.pipeline.evaluation.metrics import Score


def trial(seconds: float, psnr: float, **scores) -> Trial:
    candidate = Candidate("unipc", round(seconds * 100))
    return Trial(candidate, Score(4, psnr, psnr - 1, **scores), seconds, work=seconds * 100)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("psnr>=30", Limit("psnr", 30.0)),
        (" psnr >= 32.5 ", Limit("psnr", 32.5)),
        ("ssim>=.95", Limit("ssim", 0.95)),
        ("lpips<=0.05", Limit("lpips", 0.05)),
        ("judge", Limit("judge", 0.99)),
        ("judge>=0.9", Limit("judge", 0.9)),
    ],
)
def test_budgets_that_are_understood(text, limit):
    assert parse_goal([text], None) == QualityGoal((limit,))


@pytest.mark.parametrize(
    "text",
    ["", "psnr", "psnr>30", "psnr<=30", "lpips>=0.1", "lpips", "fid<=3", "psnr>=x", "30", "judge<=0.5", "psnr>=30,"],
)
def test_a_budget_that_is_not_lists_the_forms(text):
    with pytest.raises(UserError, match=r"psnr>=30, ssim>=0\.95, lpips<=0\.05, judge") as caught:
        parse_goal([text], None)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("budgets", "speedup", "message"),
    [
        ([], None, "either --budget .* or --speedup"),
        (["judge"], 2.0, "either --budget .* or --speedup"),
        (["psnr>=30", "psnr>=40"], None, "twice"),
        (["ssim>=30"], None, "between 0 and 1"),
        ([], 1.0, "more than 1"),
        ([], math.nan, "more than 1"),
    ],
)
def test_goals_that_make_no_sense(budgets, speedup, message):
    with pytest.raises(UserError, match=message):
        parse_goal(budgets, speedup)


def test_limits_hold_in_their_own_direction():
    one = trial(0.1, 30.0, lpips=0.05, ssim=0.9)
    assert Limit("psnr", 30.0).is_met(one)
    assert not Limit("psnr", 30.1).is_met(one)
    assert Limit("lpips", 0.05).is_met(one)
    assert not Limit("lpips", 0.049).is_met(one)
    both = parse_goal(["psnr>=30", "ssim>=0.95"], None)
    assert not both.is_met(one, one)
    assert str(both) == "psnr>=30 and ssim>=0.95"
