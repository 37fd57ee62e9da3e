"""Candidate settings, what was measured of each, and which candidates there are to try.

Pure: no model, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from wanbatch.counting import number_of
from wanbatch.pipeline.evaluation.metrics import HIGHER_IS_BETTER, Score

NO_CACHE = "none"
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 45, 50, 60, 70, 80, 100)
THRESHOLDS = (0.005, 0.64)  # of an adaptive cache
GATES = ("gate:interval=2", "gate:interval=3")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to try; the fields are those of `Settings` with the same names."""

    sampler: str
    steps: int
    step_cache: str = NO_CACHE
    schedule: str = "linear"

    def __str__(self) -> str:
        text = f"{self.sampler}, {number_of(self.steps, 'steps')}"
        if self.schedule != "linear":
            text += f", {self.schedule}"
        return text if self.step_cache == NO_CACHE else f"{text}, {self.step_cache}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured of a candidate on the sample.

    Attributes:
        candidate: The settings.
        score: The images against their references.
        seconds: Seconds an image.
        work: Evaluations of the model and blocks that ran in them, an image. They are counted, so they order
            candidates where single times scatter.
    """

    candidate: Candidate
    score: Score
    seconds: float
    work: float

    def value(self, metric: str) -> float:
        """Return a metric's value, negated where less is better.

        Raises:
            ValueError: The metric was not measured.
        """
        value = getattr(self.score, metric)
        if value is None:
            raise ValueError(f"{metric} was not measured")
        return value if HIGHER_IS_BETTER[metric] else -value

    def quality(self, metric: str) -> tuple[float, float]:
        """Return what trials are ranked by, more is better: the metric, and PSNR between equals."""
        return self.value(metric), self.score.psnr


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Where to search.

    Attributes:
        default: The model's own settings.
        samplers: Samplers to try besides the default's.
        evaluations: Evaluations of the model that (sampler, steps) take.
        schedules: Schedules to try besides the default's.
        is_possible: Whether all rows can be made with a candidate.
        layers: Blocks of the model; 0: step caches are not tried.
        guided: Whether any row uses guidance, so that a gate on it can save anything.
    """

    default: Candidate
    samplers: tuple[str, ...]
    evaluations: Callable[[str, int], int]
    schedules: tuple[str, ...] = ()
    is_possible: Callable[[Candidate], bool] = lambda candidate: True
    layers: int = 0
    guided: bool = False

    def with_step_counts(
        self, candidate: Candidate, min_steps: int = 1, max_evaluations: int | None = None
    ) -> list[Candidate]:
        """Return a candidate with each step count that is worth a try, rising.

        Args:
            candidate: The settings besides the steps.
            min_steps: The fewest steps.
            max_evaluations: The most evaluations of the model; those of the default are a bound as well.
        """
        bound = min(self.cost(self.default), max_evaluations or self.cost(self.default))
        counts = sorted({*STEPS, self.default.steps, min_steps})
        found = [replace(candidate, steps=count) for count in counts if count >= min_steps]
        return [one for one in found if self.cost(one) <= bound and self.is_possible(one)]

    def cost(self, candidate: Candidate) -> int:
        """Return the evaluations of the model that a candidate takes."""
        return self.evaluations(candidate.sampler, candidate.steps)

    @property
    def fewest_steps(self) -> int:
        """The fewest steps of the default sampler with which all rows can be made."""
        return (self.with_step_counts(self.default) or [self.default])[0].steps


def fixed_caches(layers: int) -> Iterator[str]:
    """Yield the step caches with a fixed cadence that are worth a try on a model of so many blocks."""
    yield f"deepcache:interval=2,blocks={max(1, round(layers / 3))}"
    yield "taylor:interval=2"
    yield "taylor:interval=3"
