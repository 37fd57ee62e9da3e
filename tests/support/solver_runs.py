"""Solvers on equations that are cheaper than a model. What the tests of solvers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.batching.regions import Regions, StepLevels
from wanbatch.pipeline.batching.solver_step import advance
from wanbatch.pipeline.sampling.solvers import STATES, Solution

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(samples [rows, ...], levels or times of the rows [rows, 1, 1, 1]) -> velocities."""


def trajectory(
    solutions: Sequence[Solution],
    start: Tensor,
    velocity: Velocity,
    noise: Callable[[int], Tensor] | None = None,
    times: str = "timesteps",
    regions: Regions | None = None,
) -> list[Tensor]:
    """The samples after each evaluation, [rows, channels, height, width], of rows that step together.

    start: [rows, channels, height, width]; its dtype is that of the whole computation. A row that is done stays.
    noise: step -> what a stochastic row's noise factor multiplies, [rows, channels, height, width].
    times: what the velocity is given: `timesteps` or `sigmas`.
    regions: where places start later than their row.
    """
    state = torch.zeros(len(start), STATES, *start.shape[1:], dtype=start.dtype)
    state[:, 0] = start
    found = []
    for step in range(max(solution.steps for solution in solutions)):
        rows = [_columns(solution, step, times) for solution in solutions]
        time, sigma, factor, correct, predict = (
            torch.from_numpy(np.stack(column)).to(start.dtype) for column in zip(*rows, strict=True)
        )
        v = velocity(state[:, 0], time[:, None, None, None])
        added = None
        if noise is not None and factor.any():
            fresh = noise(step) * factor[:, None, None, None]
            added = torch.where(factor[:, None, None, None] > 0, fresh, -0.0)
        within = None if regions is None else (regions, _levels(solutions, step, start.dtype))
        state = advance(state, v, sigma, correct, predict, added, within)
        found.append(state[:, 0])
    return found


def _columns(solution: Solution, step: int, times: str) -> tuple:
    """(time, sigma, noise factor, correct, predict) of one step; of a row that is done, what changes nothing."""
    if step < solution.steps:
        named = [getattr(solution, name)[step] for name in (times, "sigmas", "noise", "correct", "predict")]
        return tuple(named)
    stay = np.eye(len(solution.predict[0]))[0]
    return np.float64(0), np.float64(0), np.float64(0), stay, stay


def _levels(solutions: Sequence[Solution], step: int, dtype: torch.dtype) -> StepLevels:
    """The noise levels of one step; 0 for rows that are done."""
    table = np.zeros((4, len(solutions)))
    for row, solution in enumerate(solutions):
        if step < solution.steps:
            before, now, after = (solution.sigmas[max(0, step + to)] for to in (-1, 0, 1))
            table[:, row] = before, now, solution.reached[step], after
    return StepLevels(*torch.from_numpy(table).to(dtype))


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2) in every pixel. Velocity and flow are known in closed form.

    std: one for all pixels or a tensor of their shape.
    """

    mean: float
    std: float | Tensor

    def spread(self, s):
        """Standard deviation of the samples at level s."""
        return (((1 - s) * self.std) ** 2 + s**2) ** 0.5

    def velocity(self, x: Tensor, s: Tensor) -> Tensor:
        """E[eps - x0 | x]."""
        z = (x - (1 - s) * self.mean) / (((1 - s) * self.std) ** 2 + s**2)
        return s * z - (self.mean + (1 - s) * self.std**2 * z)

    def flow(self, x: Tensor, s: float, to: float) -> Tensor:
        """Where the exact flow takes x from level s: it keeps its distance from the mean, in deviations."""
        return (1 - to) * self.mean + self.spread(to) * (x - (1 - s) * self.mean) / self.spread(s)
