"""What each evaluation of a row runs under a step cache, and what is predicted from which earlier evaluations.

A `StepPlan` is a small state machine on the host. It says what kind of evaluation comes next and with which weights
cached values are added up. It depends on its own row alone, never on a neighbour. It has no tensors and does not run
the model; see `batching/denoiser.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts
from wanbatch.pipeline.sampling.solvers import TRAIN_TIMESTEPS, Solution
from wanbatch.pipeline.sampling.step_cache import SIGMA, Adaptive, Kind, StepCache


def position(sigma: float, along: str) -> float:
    """Where a noise level lies on the axis along which values are extrapolated, `sigma` or `logsnr`."""
    if along == SIGMA:
        return sigma
    end = 1 / TRAIN_TIMESTEPS  # the ends lie at infinity, but the model was trained on levels this far apart
    sigma = min(max(sigma, end), 1 - end)
    return math.log1p(-sigma) - math.log(sigma)


class History:
    """The noise levels at which a value was last evaluated, and the index in the cache at which each is kept.

    Args:
        depth: How many values are kept.
        along: What the values are extrapolated by a polynomial in.
    """

    def __init__(self, depth: int, along: str = SIGMA):
        self.depth, self.along = depth, along
        self.entries: list[tuple[float, int]] = []  # (position, index in the cache), newest first

    @property
    def complete(self) -> bool:
        """Whether as many values are kept as the polynomial needs."""
        return len(self.entries) == self.depth

    def index_for(self, sigma: float) -> int:
        """Where a value at this level goes: over one at the same level, else over the oldest."""
        same = [index for level, index in self.entries if level == position(sigma, self.along)]
        if same:
            return same[0]
        return self.entries[-1][1] if self.complete else len(self.entries)

    def record(self, sigma: float) -> None:
        """Note that a value at this level was stored where `index_for` said."""
        index = self.index_for(sigma)
        others = (entry for entry in self.entries if entry[1] != index)
        self.entries = [(position(sigma, self.along), index), *others]

    def clear(self) -> None:
        """Forget all values."""
        self.entries.clear()

    def weights(self, sigma: float) -> np.ndarray:
        """[depth], by index: Lagrange's weights of the polynomial through the values; zeros if it is not complete."""
        weights, here = np.zeros(self.depth), position(sigma, self.along)
        for level, index in self.entries if self.complete else ():
            others = [other for other, _ in self.entries if other != level]
            weights[index] = math.prod((here - other) / (level - other) for other in others)
        return weights

    def distance_product(self, sigma: float) -> float:
        """The product of the distances to the kept levels, which the polynomial's error is proportional to."""
        here = position(sigma, self.along)
        return math.prod(abs(here - level) for level, _ in self.entries)


SquaredErrors = Sequence[tuple[float, float]]
"""For each branch that ran the sums of squares of (truth less prediction, truth)."""


class StepPlan:
    """One row's way through its schedule under a cache.

    Args:
        cache: What may be skipped.
        solution: The row's schedule and solver.
        guided: Whether the row has a branch without the prompt.
        boundary: The second expert takes noise levels below it. One expert's residuals say nothing of the other's.
    """

    def __init__(self, cache: StepCache, solution: Solution, guided: bool, boundary: float = 0.0):
        self.cache, self.solution, self.guided, self.boundary = cache, solution, guided, boundary
        self.step = 0
        self.residual_histories = [History(cache.residuals_kept, cache.along) for _ in range(2 if guided else 1)]
        self.difference_history = History(cache.differences_kept)
        self.counts = EvaluationCounts()
        self._next_kind: Kind | None = None
        self._predictable = 0  # steps that may be predicted before the next full one
        self._steps_since_guided = 0
        self._expert = 0
        self._measurement: tuple[list[float], Callable[[], SquaredErrors]] | None = None

    @property
    def finished(self) -> bool:
        """Whether every evaluation was made."""
        return self.step == self.solution.steps

    @property
    def next_is_last(self) -> bool:
        """Whether one evaluation is left."""
        return self.step == self.solution.steps - 1

    @property
    def sigma(self) -> float:
        """The noise level of the next evaluation."""
        return float(self.solution.sigmas[self.step])

    @property
    def expert(self) -> int:
        """The transformer that makes the next evaluation, 0 or 1; known without waiting for the device."""
        return int(float(self.solution.timesteps[self.step]) < self.boundary * TRAIN_TIMESTEPS)

    @property
    def next_kind_known(self) -> bool:
        """Whether `next_kind` is known without waiting for the device."""
        return self._next_kind is not None or self._measurement is None

    @property
    def next_kind(self) -> Kind:
        """What the next evaluation runs."""
        if self._next_kind is None:
            self._next_kind = self._decide()
        return self._next_kind

    def record_evaluation(self, measured: Callable[[], SquaredErrors] | None = None) -> None:
        """Note that the next evaluation was made.

        Args:
            measured: Gives how well each branch that ran was predicted; called only if a decision needs it.
        """
        kind = self.next_kind
        branches = self.residual_histories[: 2 if kind.guided else 1]
        if kind.full and self.cache.partial:
            distances = [history.distance_product(self.sigma) if history.complete else 0.0 for history in branches]
            self._measurement = (distances, measured) if measured and all(distances) else None
            for history in branches:
                history.record(self.sigma)
            self._predictable = getattr(self.cache.skip, "interval", 1) - 1
        else:
            self._predictable -= 1
        if kind.guided and self.cache.differences_kept:
            self.difference_history.record(self.sigma)
        self._steps_since_guided = 0 if kind.guided else self._steps_since_guided + 1
        self._count(kind)
        self.step, self._next_kind = self.step + 1, None

    def _decide(self) -> Kind:
        expert = self.expert
        if expert != self._expert:
            self._expert, self._measurement, self._predictable = expert, None, 0
            for history in (*self.residual_histories, self.difference_history):
                history.clear()
        if self._measurement is not None:
            self._predictable, self._measurement = self._steps_within_threshold(*self._measurement), None
        full = self._predictable <= 0 or self._is_last or not self.residual_histories[0].complete
        guided = self.guided and not self._gated(full)
        return Kind(expert, full or (guided and self._branch_outdated), guided)

    @property
    def _is_last(self) -> bool:
        """The last evaluation is never predicted: nothing after it could mend its error."""
        return self.step == self.solution.steps - 1

    @property
    def _branch_outdated(self) -> bool:
        """Whether the branch without the prompt was left out when the other one last ran in full."""
        with_prompt, without = self.residual_histories
        return not without.complete or without.entries[0][0] != with_prompt.entries[0][0]

    def _gated(self, full: bool) -> bool:
        """Whether the branch without the prompt is left out; a difference is renewed at full evaluations only."""
        gate = self.cache.gate
        if gate is None or not gate.above <= self.sigma <= gate.below:
            return False
        if gate.mode == "skip":
            return True
        waits = self._steps_since_guided < gate.interval - 1 or not full
        return waits and self.difference_history.complete and not self._is_last

    def _steps_within_threshold(self, distances: list[float], measured: Callable[[], SquaredErrors]) -> int:
        """How many of the next steps may be predicted, by the error of what would have been predicted for the last.

        An extrapolation's error is proportional to the product of the distances to what it extrapolates from, as
        long as the next derivative changes slowly.
        """
        skip = self.cache.skip
        assert isinstance(skip, Adaptive)
        errors = measured()
        truth = sum(of_truth for _, of_truth in errors)
        for count in range(min(skip.longest, self.solution.steps - 1 - self.step)):
            sigma = float(self.solution.sigmas[self.step + count])
            error = sum(
                of_error * (history.distance_product(sigma) / distance) ** 2
                for (of_error, _), history, distance in zip(errors, self.residual_histories, distances, strict=False)
            )
            if not error <= skip.threshold**2 * truth:  # nor if it is NaN
                return count
        return skip.longest

    def _count(self, kind: Kind) -> None:
        run, total = self.cache.blocks_run(kind), self.cache.layers * len(self.residual_histories)
        self.counts = self.counts + EvaluationCounts(int(run == total), int(run < total), run, total - run)
