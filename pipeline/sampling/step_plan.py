"""The course of a row: what each of its evaluations runs, and what is predicted from what.

A `StepPlan` is a small state machine on the host. It says what kind of evaluation comes next and with which weights
remembered values are added up. It depends on its own row alone, never on a neighbour. It has no tensors and does
not run the model; see `denoise.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from wanbatch.pipeline.core.requests import EvaluationCounts
from wanbatch.pipeline.sampling.solvers import TRAIN_TIMESTEPS, Solution
from wanbatch.pipeline.sampling.step_cache import SIGMA, Adaptive, Kind, StepCache


def position(sigma: float, along: str) -> float:
    """Where a noise level lies on the axis along which values are extrapolated."""
    if along == SIGMA:
        return sigma
    end = 1 / TRAIN_TIMESTEPS  # the ends lie at infinity, but the model was trained on levels this far apart
    sigma = min(max(sigma, end), 1 - end)
    return math.log1p(-sigma) - math.log(sigma)


class History:
    """The noise levels at which something was last evaluated, and the places in memory where it is kept.

    depth: how many are kept. along: what values are taken for a polynomial in.
    """

    def __init__(self, depth: int, along: str = SIGMA):
        self.depth, self.along = depth, along
        self.kept: list[tuple[float, int]] = []  # (position, place), newest first

    @property
    def ready(self) -> bool:
        return len(self.kept) == self.depth

    def place(self, sigma: float) -> int:
        """Where a value at this level goes: over one at the same level, else over the oldest."""
        same = [place for level, place in self.kept if level == position(sigma, self.along)]
        if same:
            return same[0]
        return self.kept[-1][1] if self.ready else len(self.kept)

    def note(self, sigma: float) -> None:
        place = self.place(sigma)
        self.kept = [(position(sigma, self.along), place), *(other for other in self.kept if other[1] != place)]

    def weights(self, sigma: float) -> np.ndarray:
        """[depth], by place: Lagrange's weights of the polynomial through the kept values; zeros if not ready."""
        weights, here = np.zeros(self.depth), position(sigma, self.along)
        for level, place in self.kept if self.ready else ():
            others = [other for other, _ in self.kept if other != level]
            weights[place] = math.prod((here - other) / (level - other) for other in others)
        return weights

    def reach(self, sigma: float) -> float:
        """What the polynomial's error grows with: the product of the distances to the kept levels."""
        here = position(sigma, self.along)
        return math.prod(abs(here - level) for level, _ in self.kept)


Sums = Sequence[tuple[float, float]]  # of squares, of a branch each: (truth less prediction, truth)


class StepPlan:
    """One row's way through its schedule under a cache.

    guided: whether the row has a branch without the prompt.
    boundary: the second expert takes noise levels below it. One expert's residuals say nothing of the other's.
    """

    def __init__(self, cache: StepCache, solution: Solution, guided: bool, boundary: float = 0.0):
        self.cache, self.solution, self.guided, self.boundary = cache, solution, guided, boundary
        self.step = 0
        self.residuals = [History(cache.residuals_kept, cache.along) for _ in range(2 if guided else 1)]
        self.difference = History(cache.differences_kept)
        self.work = EvaluationCounts()
        self._next: Kind | None = None
        self._left = 0  # steps that may be predicted before the next full one
        self._since_guided = 0
        self._expert = 0
        self._measured: tuple[list[float], Callable[[], Sums]] | None = None

    @property
    def finished(self) -> bool:
        return self.step == self.solution.steps

    @property
    def sigma(self) -> float:
        return float(self.solution.sigmas[self.step])

    @property
    def settled(self) -> bool:
        """Whether `kind` is known without waiting for the device."""
        return self._next is not None or self._measured is None

    @property
    def kind(self) -> Kind:
        """Of the next evaluation."""
        if self._next is None:
            self._next = self._decide()
        return self._next

    def done(self, measured: Callable[[], Sums] | None = None) -> None:
        """The next evaluation was made. measured: gives, for each branch that ran, how well it was predicted."""
        kind = self.kind
        branches = self.residuals[: 2 if kind.guided else 1]
        if kind.full and self.cache.partial:
            reaches = [history.reach(self.sigma) if history.ready else 0.0 for history in branches]
            self._measured = (reaches, measured) if measured and all(reaches) else None
            for history in branches:
                history.note(self.sigma)
            self._left = getattr(self.cache.skip, "interval", 1) - 1
        else:
            self._left -= 1
        if kind.guided and self.cache.differences_kept:
            self.difference.note(self.sigma)
        self._since_guided = 0 if kind.guided else self._since_guided + 1
        self._count(kind)
        self.step, self._next = self.step + 1, None

    def _decide(self) -> Kind:
        expert = int(float(self.solution.timesteps[self.step]) < self.boundary * TRAIN_TIMESTEPS)
        if expert != self._expert:
            self._expert, self._measured, self._left = expert, None, 0
            for history in (*self.residuals, self.difference):
                history.kept.clear()
        if self._measured is not None:
            self._left, self._measured = self._allowed(*self._measured), None
        full = self._left <= 0 or self._last or not self.residuals[0].ready
        guided = self.guided and not self._gated(full)
        return Kind(expert, full or (guided and self._stale), guided)

    @property
    def _last(self) -> bool:
        """The last evaluation is never predicted: nothing after it could mend its error."""
        return self.step == self.solution.steps - 1

    @property
    def _stale(self) -> bool:
        """Whether the branch without the prompt was left out when the other one last ran in full."""
        with_prompt, without = self.residuals
        return not without.ready or without.kept[0][0] != with_prompt.kept[0][0]

    def _gated(self, full: bool) -> bool:
        """Whether the branch without the prompt is left out; a difference is renewed at full evaluations only."""
        gate = self.cache.gate
        if gate is None or not gate.above <= self.sigma <= gate.below:
            return False
        if gate.mode == "skip":
            return True
        waits = self._since_guided < gate.interval - 1 or not full
        return waits and self.difference.ready and not self._last

    def _allowed(self, reaches: list[float], measured: Callable[[], Sums]) -> int:
        """How many of the next steps may be predicted, by the error of what would have been predicted for the last.

        An extrapolation's error is proportional to the product of the distances to what it extrapolates from, as
        long as the next derivative changes slowly.
        """
        skip = self.cache.skip
        assert isinstance(skip, Adaptive)
        sums = measured()
        whole = sum(truth for _, truth in sums)
        for count in range(min(skip.longest, self.solution.steps - 1 - self.step)):
            sigma = float(self.solution.sigmas[self.step + count])
            wrong = sum(
                error * (history.reach(sigma) / reach) ** 2
                for (error, _), history, reach in zip(sums, self.residuals, reaches, strict=False)
            )
            if not wrong <= skip.threshold**2 * whole:  # nor if it is not a number
                return count
        return skip.longest

    def _count(self, kind: Kind) -> None:
        run, total = self.cache.blocks_run(kind), self.cache.layers * len(self.residuals)
        self.work = self.work + EvaluationCounts(int(run == total), int(run < total), run, total - run)
