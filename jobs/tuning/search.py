"""A staged search for the candidate that meets a goal best.

Pure: no model, no clock, no I/O. Whoever calls `Search` gives it a function that makes and scores the sample's
images with one candidate's settings.

Every stage looks for a *turning point*: along an axis on which candidates get better and slower (steps; the
threshold of an adaptive cache, downwards), the place where the goal is only just met. It takes quality to rise
along that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from wanbatch.jobs.tuning.candidates import GATES, THRESHOLDS, Candidate, SearchSpace, Trial, fixed_caches
from wanbatch.jobs.tuning.goals import Goal, QualityGoal, SpeedGoal, least_work_first

SPEED_MARGIN = 1.03  # a speed-up is searched for with this much to spare, since times scatter
PROMISING = 2  # of samplers and schedules, those that go on to the stages with caches
SHOWN = 9  # candidates on the frontier that are timed anew and shown
BISECTIONS = 4
MAX_STEP_RATIO = 3  # with a cache, up to so many times as many steps are tried


@dataclass(slots=True)
class Search:
    """One search; each candidate is measured once.

    Attributes:
        space: Where to search.
        goal: What to search for.
        measure: Makes and scores the sample with a candidate.
        trials: What was measured so far, by candidate.
    """

    space: SearchSpace
    goal: Goal
    measure: Callable[[Candidate], Trial]
    trials: dict[Candidate, Trial] = field(default_factory=dict)

    def run(self) -> list[Trial]:
        """Run all stages and return all trials; the default is the first."""
        self.try_candidate(self.space.default)
        promising = self.search_schedules(self.search_samplers())
        if self.space.layers:
            for plain in promising:
                self.search_caches(plain)
            if self.space.guided:
                self.search_gates()
        return list(self.trials.values())

    def try_candidate(self, candidate: Candidate) -> Trial:
        """Measure a candidate, unless it has been."""
        if candidate not in self.trials:
            self.trials[candidate] = self.measure(candidate)
        return self.trials[candidate]

    def meets(self, trial: Trial) -> bool:
        """Whether a trial meets the goal; a speed with a margin."""
        default = self.trials[self.space.default]
        if isinstance(self.goal, SpeedGoal):
            return trial.seconds * self.goal.ratio * SPEED_MARGIN <= default.seconds
        return self.goal.is_met(trial, default)

    def search_samplers(self) -> list[Candidate]:
        """Find each sampler's turning point in steps and return the most promising, the best first."""
        default = self.space.default
        names = dict.fromkeys((default.sampler, *self.space.samplers))
        return self._compare([], [replace(default, sampler=name) for name in names])

    def search_schedules(self, plain: list[Candidate]) -> list[Candidate]:
        """Do the same for each other schedule with these candidates; they stay in the comparison."""
        return self._compare(plain, [replace(one, schedule=name) for one in plain for name in self.space.schedules])

    def search_caches(self, plain: Candidate) -> None:
        """Find the turning point in steps with each fixed cache, and in the threshold with an adaptive one."""
        most = self.space.cost(plain) * MAX_STEP_RATIO
        for cache in fixed_caches(self.space.layers):
            self._turning_point(self.space.with_step_counts(replace(plain, step_cache=cache), plain.steps, most))
        rising = self.space.with_step_counts(plain, plain.steps, most)
        for index in sorted({0, len(rising) // 2}):
            self.search_threshold(rising[index])

    def search_threshold(self, plain: Candidate) -> None:
        """Bisect an adaptive cache's threshold, in the logarithm, for the value where the goal is only just met."""
        low, high = THRESHOLDS
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            trial = self.try_candidate(replace(plain, step_cache=f"adaptive:threshold={middle:.3g}"))
            if self.meets(trial) == isinstance(self.goal, QualityGoal):
                low = middle  # quality to spare, or too slow: skip more
            else:
                high = middle

    def search_gates(self) -> None:
        """Try the guidance gate on top of the best so far."""
        for trial in self.goal.most_promising(filter(self.meets, self.trials.values()))[:PROMISING]:
            for gate in GATES:
                self.try_candidate(replace(trial.candidate, step_cache=f"{trial.candidate.step_cache}+{gate}"))

    def _compare(self, found: list[Candidate], others: Iterable[Candidate]) -> list[Candidate]:
        """Return the most promising of some turning points and those of others, the best first.

        For a quality, another one is only looked at where it costs no more than the best so far; so most samplers
        take one trial.
        """
        trials = {one: self.trials[one] for one in found}
        for other in others:
            costs = [self.space.cost(one) for one in trials] if isinstance(self.goal, QualityGoal) else []
            rising = self.space.with_step_counts(other, max_evaluations=min(costs, default=None))
            trial = self._turning_point(rising, last_first=bool(costs))
            if trial is None and rising and isinstance(self.goal, SpeedGoal):
                trial = self.try_candidate(rising[0])  # too slow as it is, but a cache may make it fast enough
            if trial is not None:
                trials[trial.candidate] = trial
        return [trial.candidate for trial in self.goal.most_promising(trials.values())[:PROMISING]]

    def _turning_point(self, rising: Sequence[Candidate], last_first: bool = False) -> Trial | None:
        """Bisect for the first candidate to meet a quality, or the last to meet a speed.

        Args:
            rising: Candidates that get better and slower.
            last_first: Try the last one first, since it may well be that not even that one meets the goal.
        """
        wanted = isinstance(self.goal, QualityGoal)
        low, high = -1, len(rising)  # the indices around the turning point
        found = None
        while high - low > 1:
            middle = high - 1 if last_first and high == len(rising) else (low + high) // 2
            trial = self.try_candidate(rising[middle])
            meets = self.meets(trial)
            if meets:
                found = trial
            low, high = (low, middle) if meets == wanted else (middle, high)
        return found


def frontier(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Return the trials that no other beats in both work and quality, the least work first."""
    found: list[Trial] = []
    for trial in least_work_first(trials, metric):
        if not found or trial.quality(metric) > found[-1].quality(metric):
            found.append(trial)
    return found


def contenders(trials: Sequence[Trial], default: Trial, goal: Goal) -> list[Trial]:
    """Return what is worth timing anew, the least work first: the part of the frontier around the goal.

    That frontier is the one of all trials, and that of those that meet the goal.
    """
    meeting = [trial for trial in trials if goal.is_met(trial, default)]
    # Of several limits the goal's metric is one: what meets all may be beaten in that one by what misses another.
    kept = [*frontier(trials, goal.metric), *frontier(meeting, goal.metric)]
    front = least_work_first({trial.candidate: trial for trial in kept}.values(), goal.metric)
    meeting = [trial for trial in front if goal.is_met(trial, default)]
    best = front.index(goal.most_promising(meeting)[0] if meeting else goal.nearest(front))
    first = max(0, min(best - SHOWN // 2, len(front) - SHOWN))
    return front[first : first + SHOWN]
