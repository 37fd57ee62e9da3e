"""What a search is for: a quality that must be reached, or a speed.

Pure: no model, no clock, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wanbatch.errors import UserError
from wanbatch.jobs.tuning.candidates import Trial
from wanbatch.pipeline.evaluation.metrics import HIGHER_IS_BETTER
from wanbatch.suggestions import did_you_mean

JUDGE_SLACK = 0.01  # of a bare `judge`: the share by which fewer attributes than the reference's may be right
BUDGET_FORMS = "psnr>=30, ssim>=0.95, lpips<=0.05, judge, judge>=0.98"
MAX_SPEEDUP = 1000


@dataclass(frozen=True, slots=True)
class Limit:
    """What a metric must reach: at least `bound`, or, where less is better, at most."""

    metric: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{'>=' if HIGHER_IS_BETTER[self.metric] else '<='}{self.bound:g}"

    def is_met(self, trial: Trial) -> bool:
        """Whether a trial reaches it."""
        value = getattr(trial.score, self.metric)
        return value >= self.bound if HIGHER_IS_BETTER[self.metric] else value <= self.bound


@dataclass(frozen=True, slots=True)
class QualityGoal:
    """The fastest settings that meet all limits."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.limits))

    @property
    def metric(self) -> str:
        """The metric in which the frontier is drawn."""
        return self.limits[0].metric

    @property
    def metrics(self) -> set[str]:
        """The metrics that have to be measured."""
        return {limit.metric for limit in self.limits}

    def is_met(self, trial: Trial, default: Trial) -> bool:
        """Whether a trial meets the goal; the default plays no part here."""
        return all(limit.is_met(trial) for limit in self.limits)

    def best(self, trials: Sequence[Trial]) -> Trial:
        """Return the best of trials that meet the goal and whose times can be trusted."""
        return min(trials, key=lambda trial: trial.seconds)

    def most_promising(self, trials: Iterable[Trial]) -> list[Trial]:
        """Sort trials that meet the goal and that were timed only once, the most promising first."""
        return least_work_first(trials, self.metric)

    def nearest(self, trials: Sequence[Trial]) -> Trial:
        """Return the nearest of trials that do not meet the goal."""
        return max(trials, key=lambda trial: trial.quality(self.metric))

    def failure(self, default: Trial, trials: Sequence[Trial], timed: Sequence[Trial]) -> str:
        """Say that nothing meets the goal, and what comes nearest.

        Args:
            default: The model's own settings.
            trials: All trials.
            timed: Those of them that were timed in turn.
        """
        best = self.nearest(trials)
        reached = ", ".join(f"{limit.metric} {getattr(best.score, limit.metric):.4g}" for limit in self.limits)
        return f"nothing reaches {self}: the best is {best.candidate} with {reached}"


@dataclass(frozen=True, slots=True)
class SpeedGoal:
    """The best settings, by PSNR, of those that need at most 1 / `ratio` of the default's time."""

    ratio: float
    metric: str = "psnr"

    def __str__(self) -> str:
        return f"{self.ratio:g} times as fast"

    @property
    def metrics(self) -> set[str]:
        """The metrics that have to be measured besides PSNR, which always is."""
        return set()

    def is_met(self, trial: Trial, default: Trial) -> bool:
        """Whether a trial is so many times as fast as the default."""
        return trial.seconds * self.ratio <= default.seconds

    def best(self, trials: Sequence[Trial]) -> Trial:
        """Return the best of trials that meet the goal and whose times can be trusted."""
        return max(trials, key=lambda trial: trial.quality(self.metric))

    def most_promising(self, trials: Iterable[Trial]) -> list[Trial]:
        """Sort trials that meet the goal and that were timed only once, the most promising first."""
        return sorted(trials, key=lambda trial: trial.quality(self.metric), reverse=True)

    def nearest(self, trials: Sequence[Trial]) -> Trial:
        """Return the nearest of trials that do not meet the goal."""
        return min(trials, key=lambda trial: trial.seconds)

    def failure(self, default: Trial, trials: Sequence[Trial], timed: Sequence[Trial]) -> str:
        """Say that nothing meets the goal, and what comes nearest; arguments as of `QualityGoal.failure`."""
        best = self.nearest(timed)
        return f"nothing is {self}: the fastest is {best.candidate} with {default.seconds / best.seconds:.2f} times"


Goal = QualityGoal | SpeedGoal


def parse_goal(budgets: Sequence[str], speedup: float | None) -> Goal:
    """Read the options --budget and --speedup, of which exactly one must be given.

    Raises:
        UserError: Both or none is given, or one cannot be understood; the message lists the forms.
    """
    if (speedup is None) == (not budgets):
        raise UserError(f"give either --budget ({BUDGET_FORMS}; several must all hold) or --speedup 2")
    if speedup is not None:
        if not 1 < speedup < MAX_SPEEDUP:
            raise UserError(f"--speedup {speedup:g}: must be more than 1 and less than {MAX_SPEEDUP}")
        return SpeedGoal(speedup)
    limits = tuple(_limit(budget) for budget in budgets)
    if len({limit.metric for limit in limits}) < len(limits):
        raise UserError(f"--budget {' '.join(budgets)}: a metric is given twice")
    return QualityGoal(limits)


def least_work_first(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """Sort trials by their work, those of equal work by their quality."""
    return sorted(trials, key=lambda trial: (trial.work, *(-value for value in trial.quality(metric))))


def _limit(text: str) -> Limit:
    match = re.fullmatch(r"\s*([a-z]+)\s*(?:(>=|<=)\s*(\d+(?:\.\d+)?|\.\d+)\s*)?", text)
    metric, sign, number = match.groups() if match else ("", None, None)
    if metric == "judge" and sign is None:
        return Limit("judge", 1 - JUDGE_SLACK)
    if metric not in HIGHER_IS_BETTER or number is None or sign != (">=" if HIGHER_IS_BETTER[metric] else "<="):
        name = re.split(r"\W", text.strip(), maxsplit=1)[0]
        near = "" if name in HIGHER_IS_BETTER else did_you_mean(name, HIGHER_IS_BETTER)
        raise UserError(f"--budget {text!r} is not understood; the forms are {BUDGET_FORMS}" + near)
    bound = float(number)
    if metric != "psnr" and bound > 1:
        raise UserError(f"--budget {text!r}: {metric} lies between 0 and 1")
    return Limit(metric, bound)
