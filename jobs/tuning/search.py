"""What to look for and how: budgets, candidates, and a staged search for the best of them.

Pure: no model, no clock, no I/O. Whoever calls `search` gives it a function that makes and scores the sample's
pictures with one candidate's settings.

Every stage looks for an *edge*: along an axis that makes a candidate better and slower (steps; the threshold of an
adaptive cache, downwards), the place where the goal is only just met. It takes quality to rise along it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from wanbatch.errors import UserError

if TYPE_CHECKING:
    from wanbatch.pipeline.evaluation.quality import Score

NO_CACHE = "none"
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 45, 50, 60, 70, 80, 100)
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "judge": True}
JUDGE_SLACK = 0.01  # of a bare `judge`: how much less than the reference may be right
SAFETY = 1.03  # a speed-up is searched for with this much to spare, since times scatter
PROMISING = 2  # of samplers and schedules, those that go on to the stages with caches
SHOWN = 9  # candidates on the frontier that are timed anew and shown
THRESHOLDS = (0.005, 0.64)  # of an adaptive cache
BISECTIONS = 4
AT_MOST_SKIPPED = 3  # with a cache, up to so many times as many steps are tried
BUDGET_FORMS = "psnr>=30, ssim>=0.95, lpips<=0.05, judge, judge>=0.98"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to try. step_cache: as the setting of that name spells it."""

    sampler: str
    steps: int
    step_cache: str = NO_CACHE
    schedule: str = "linear"

    def __str__(self) -> str:
        text = f"{self.sampler}, {self.steps} steps"
        if self.schedule != "linear":
            text += f", {self.schedule}"
        return text if self.step_cache == NO_CACHE else f"{text}, {self.step_cache}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What a candidate did on the sample. seconds: of a picture.

    work: evaluations of the model, and blocks that ran in them, for a picture. They are counted, so they order
    candidates where single times scatter.
    """

    candidate: Candidate
    score: Score
    seconds: float
    work: float

    def value(self, metric: str) -> float:
        """A metric's value, turned so that more is better."""
        value = getattr(self.score, metric)
        if value is None:
            raise ValueError(f"{metric} was not measured")
        return value if HIGHER_IS_BETTER[metric] else -value


@dataclass(frozen=True, slots=True)
class Limit:
    """What a metric must reach: at least `bound`, or, where less is better, at most."""

    metric: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{'>=' if HIGHER_IS_BETTER[self.metric] else '<='}{self.bound:g}"

    def met(self, trial: Trial) -> bool:
        value = getattr(trial.score, self.metric)
        return value >= self.bound if HIGHER_IS_BETTER[self.metric] else value <= self.bound


class Goal(Protocol):
    """What a search is for. ranks_by: the metric that the frontier is drawn in."""

    ranks_by: str

    def met(self, trial: Trial, default: Trial) -> bool: ...

    def best(self, trials: Sequence[Trial]) -> Trial:
        """Of trials that meet it and whose times can be trusted."""

    def promising(self, trials: Iterable[Trial]) -> list[Trial]:
        """Trials that meet it and whose times are single ones, the most promising first."""

    def nearest(self, trials: Sequence[Trial]) -> Trial:
        """Of trials that do not."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The fastest that meets all limits."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.limits))

    @property
    def ranks_by(self) -> str:
        return self.limits[0].metric

    def met(self, trial: Trial, default: Trial) -> bool:
        return all(limit.met(trial) for limit in self.limits)

    def best(self, trials: Sequence[Trial]) -> Trial:
        return min(trials, key=lambda trial: trial.seconds)

    def promising(self, trials: Iterable[Trial]) -> list[Trial]:
        return _least_work_first(trials, self.ranks_by)

    def nearest(self, trials: Sequence[Trial]) -> Trial:
        return max(trials, key=lambda trial: rank(trial, self.ranks_by))


@dataclass(frozen=True, slots=True)
class Speedup:
    """The best of those that need at most 1 / `ratio` of the default's time."""

    ratio: float
    ranks_by: str = "psnr"

    def __str__(self) -> str:
        return f"{self.ratio:g} times as fast"

    def met(self, trial: Trial, default: Trial) -> bool:
        return trial.seconds * self.ratio <= default.seconds

    def best(self, trials: Sequence[Trial]) -> Trial:
        return max(trials, key=lambda trial: rank(trial, self.ranks_by))

    def promising(self, trials: Iterable[Trial]) -> list[Trial]:
        return sorted(trials, key=lambda trial: rank(trial, self.ranks_by), reverse=True)

    def nearest(self, trials: Sequence[Trial]) -> Trial:
        return min(trials, key=lambda trial: trial.seconds)


@dataclass(frozen=True, slots=True)
class Space:
    """Where to search.

    default: the model's own settings. samplers, schedules: besides the default's. evaluations: of the model, of
    (sampler, steps). possible: whether the rows can be made with a candidate. layers: blocks of the model; 0: the
    step caches are left out. guided: whether gating can save anything.
    """

    default: Candidate
    samplers: tuple[str, ...]
    evaluations: Callable[[str, int], int]
    schedules: tuple[str, ...] = ()
    possible: Callable[[Candidate], bool] = lambda candidate: True
    layers: int = 0
    guided: bool = False

    def rising(self, like: Candidate, least: int = 1, most: int | None = None) -> list[Candidate]:
        """A candidate with the step counts to try, rising.

        least: steps. most: evaluations; the default's are a bound, too.
        """
        bound = min(self.cost(self.default), most or self.cost(self.default))
        counts = sorted({*STEPS, self.default.steps, least})
        found = [replace(like, steps=count) for count in counts if count >= least]
        return [one for one in found if self.cost(one) <= bound and self.possible(one)]

    def cost(self, candidate: Candidate) -> int:
        """Evaluations of the model."""
        return self.evaluations(candidate.sampler, candidate.steps)


def parse_goal(budgets: Sequence[str], speedup: float | None) -> Quality | Speedup:
    """Read the two options, of which exactly one must be given. Raises UserError that lists the forms."""
    if (speedup is None) == (not budgets):
        raise UserError(f"give either --budget ({BUDGET_FORMS}; several must all hold) or --speedup 2")
    if speedup is not None:
        if not 1 < speedup < 1000:
            raise UserError(f"--speedup {speedup:g}: must be more than 1 and less than 1000")
        return Speedup(speedup)
    limits = tuple(_limit(budget) for budget in budgets)
    if len({limit.metric for limit in limits}) < len(limits):
        raise UserError(f"--budget {' '.join(budgets)}: a metric is given twice")
    return Quality(limits)


def _limit(text: str) -> Limit:
    match = re.fullmatch(r"\s*([a-z]+)\s*(?:(>=|<=)\s*(\d+(?:\.\d+)?|\.\d+)\s*)?", text)
    metric, sign, number = match.groups() if match else ("", None, None)
    if metric == "judge" and sign is None:
        return Limit("judge", 1 - JUDGE_SLACK)
    if metric not in HIGHER_IS_BETTER or number is None or sign != (">=" if HIGHER_IS_BETTER[metric] else "<="):
        raise UserError(f"--budget {text!r} is not understood; the forms are {BUDGET_FORMS}")
    bound = float(number)
    if metric != "psnr" and bound > 1:
        raise UserError(f"--budget {text!r}: {metric} lies between 0 and 1")
    return Limit(metric, bound)


def rank(trial: Trial, metric: str) -> tuple[float, float]:
    """More is better; PSNR decides between equals."""
    return trial.value(metric), trial.score.psnr


def frontier(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Those that no other beats in both work and quality, the least work first."""
    found: list[Trial] = []
    for trial in _least_work_first(trials, metric):
        if not found or rank(trial, metric) > rank(found[-1], metric):
            found.append(trial)
    return found


def _least_work_first(trials: Iterable[Trial], metric: str) -> list[Trial]:
    return sorted(trials, key=lambda trial: (trial.work, *(-value for value in rank(trial, metric))))


def contenders(trials: Sequence[Trial], default: Trial, goal: Quality | Speedup) -> list[Trial]:
    """The part of the frontier on both sides of the goal that is worth timing anew, the least work first."""
    front = frontier(trials, goal.ranks_by)
    meeting = [trial for trial in front if goal.met(trial, default)]
    best = front.index(goal.promising(meeting)[0] if meeting else goal.nearest(front))
    first = max(0, min(best - SHOWN // 2, len(front) - SHOWN))
    return front[first : first + SHOWN]


@dataclass(slots=True)
class Search:
    """One search. measure: makes and scores the sample; each candidate is measured once."""

    space: Space
    goal: Quality | Speedup
    measure: Callable[[Candidate], Trial]
    trials: dict[Candidate, Trial] = field(default_factory=dict)

    def run(self) -> list[Trial]:
        """All that was tried; the default is the first."""
        self.try_one(self.space.default)
        promising = self.schedules(self.samplers())
        if self.space.layers:
            for plain in promising:
                self.caches(plain)
            if self.space.guided:
                self.gates()
        return list(self.trials.values())

    @property
    def default(self) -> Trial:
        return self.trials[self.space.default]

    def try_one(self, candidate: Candidate) -> Trial:
        if candidate not in self.trials:
            self.trials[candidate] = self.measure(candidate)
        return self.trials[candidate]

    def meets(self, trial: Trial) -> bool:
        if isinstance(self.goal, Speedup):
            return trial.seconds * self.goal.ratio * SAFETY <= self.default.seconds
        return self.goal.met(trial, self.default)

    def samplers(self) -> list[Candidate]:
        """The edge in steps of each sampler; those of the most promising ones, the best first."""
        default = self.space.default
        names = dict.fromkeys((default.sampler, *self.space.samplers))
        return self.edges([], [replace(default, sampler=name) for name in names])

    def schedules(self, plain: list[Candidate]) -> list[Candidate]:
        """The same of each other schedule with these; those of the most promising ones, these among them."""
        return self.edges(plain, [replace(one, schedule=name) for one in plain for name in self.space.schedules])

    def edges(self, found: list[Candidate], others: Iterable[Candidate]) -> list[Candidate]:
        """The most promising of some edges and those of others, the best first.

        For a quality, another one is only looked at where it costs no more than the best so far; so most samplers
        take one trial.
        """
        trials = {one: self.trials[one] for one in found}
        for other in others:
            costs = [self.space.cost(one) for one in trials] if isinstance(self.goal, Quality) else []
            rising = self.space.rising(other, most=min(costs, default=None))
            edge = self.edge(rising, from_the_top=bool(costs))
            if edge is None and rising and isinstance(self.goal, Speedup):
                edge = self.try_one(rising[0])  # too slow as it is, but a cache may make it fast enough
            if edge is not None:
                trials[edge.candidate] = edge
        return [edge.candidate for edge in self.goal.promising(trials.values())[:PROMISING]]

    def caches(self, plain: Candidate) -> None:
        """The edges in steps with each cache; for the adaptive ones, in the threshold, at two step counts."""
        most = self.space.cost(plain) * AT_MOST_SKIPPED
        for cache in fixed_caches(self.space.layers):
            self.edge(self.space.rising(replace(plain, step_cache=cache), plain.steps, most))
        rising = self.space.rising(plain, plain.steps, most)
        for place in sorted({0, len(rising) // 2}):
            self.calibrate(rising[place])

    def calibrate(self, plain: Candidate) -> None:
        """Bisect an adaptive cache's threshold, in the logarithm, for the place where the goal is only just met."""
        low, high = THRESHOLDS
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            trial = self.try_one(replace(plain, step_cache=f"adaptive:threshold={middle:.3g}"))
            if self.meets(trial) == isinstance(self.goal, Quality):
                low = middle  # quality to spare, or too slow: skip more
            else:
                high = middle

    def gates(self) -> None:
        """The guidance gate on top of the best so far."""
        for trial in self.goal.promising(filter(self.meets, self.trials.values()))[:PROMISING]:
            for gate in GATES:
                self.try_one(replace(trial.candidate, step_cache=f"{trial.candidate.step_cache}+{gate}"))

    def edge(self, rising: Sequence[Candidate], from_the_top: bool = False) -> Trial | None:
        """Of candidates that get better and slower: the first to meet a quality, or the last to meet a speed.

        from_the_top: the last one is tried first, since it may well be that not even that one meets the goal.
        """
        wanted = isinstance(self.goal, Quality)
        low, high = -1, len(rising)  # the places around the change
        found = None
        while high - low > 1:
            middle = high - 1 if from_the_top and high == len(rising) else (low + high) // 2
            trial = self.try_one(rising[middle])
            meets = self.meets(trial)
            if meets:
                found = trial
            low, high = (low, middle) if meets == wanted else (middle, high)
        return found


GATES = ("gate:interval=2", "gate:interval=3")


def fixed_caches(layers: int) -> Iterator[str]:
    """Caches with a fixed cadence that are worth a try on a model of so many blocks."""
    yield f"deepcache:interval=2,blocks={max(1, round(layers / 3))}"
    yield "taylor:interval=2"
    yield "taylor:interval=3"
