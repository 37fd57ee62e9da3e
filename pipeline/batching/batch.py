"""One evaluation of a transformer after the other, for rows of one size class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.batching.cuda_graphs import CudaGraphs, worth_capturing
from wanbatch.pipeline.batching.regions import StepLevels
from wanbatch.pipeline.batching.slots import Row, SlotTable
from wanbatch.pipeline.batching.solver_step import advance
from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.backends import AnyDenoisingModel
from wanbatch.pipeline.core.device import PendingRead, to_device
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.sampling.solvers import TERMS
from wanbatch.pipeline.sampling.step_cache import Kind, StepCache
from wanbatch.pipeline.sampling.step_plan import History, SquaredErrors, StepPlan

Active = Mapping[int, Row]
"""The rows that take part in an evaluation, by their slots."""


class Batch:
    """The slots of one size class and expert, and how an evaluation moves the rows in them on.

    Args:
        model: The transformer.
        expert: Its number, 0 or 1, see `Denoiser`.
        cache: What the rows may skip.
        slots: How many rows an evaluation takes.
        first: A row of the size class.
        stationary: Whether the model stays where it is in memory, so that its launches may be recorded.
    """

    def __init__(
        self,
        model: AnyDenoisingModel,
        expert: int,
        cache: StepCache,
        slots: int,
        first: Sample,
        stationary: bool,
    ):
        self._model, self._expert, self._cache, self._slot_count = model, expert, cache, slots
        self._device = first.start.device
        self._slots = SlotTable(model, expert, cache, slots, first)
        graphs = stationary and worth_capturing(self._device, self._slots.tokens)
        self._graphs = CudaGraphs() if graphs else None

    def step(self, kind: Kind, rows: Sequence[Row]) -> None:
        """Run one evaluation for these rows. The other slots run on what is left in them, for nothing."""
        active = self._slots.assign(rows)
        sigma, timestep, guidance, correct, predict = self._factors(active)
        velocity, measured = self._velocity(kind, active, timestep, guidance[:, None, None, None])
        regions = None if self._slots.regions is None else (self._slots.regions, self._step_levels(active))
        state = advance(self._slots.state, velocity, sigma, correct, predict, self._noise(active), regions)
        self._slots.update(state, active)
        for slot, row in active.items():
            sequences = range(slot, self._slots.sequences, self._slot_count)
            row.plan.record_evaluation(partial(_errors_of, measured, sequences) if measured else None)

    def forget_launches(self) -> None:
        """Record launches anew from now on, since the model goes elsewhere in memory."""
        if self._graphs is not None:
            self._graphs = CudaGraphs()

    def release(self, row: Row) -> Tensor:
        """Free the slot of a row. Returns what its solver carries, [STATES, channels, height, width]."""
        return self._slots.release(row)

    def _velocity(
        self, kind: Kind, active: Active, timestep: np.ndarray, guidance: Tensor
    ) -> tuple[Tensor, PendingRead | None]:
        """The velocity of each slot, guided, and how well the residuals were predicted, if that is measured."""
        velocity, measured = self._evaluate(kind, active, timestep)
        differences = self._slots.differences
        if kind.guided:
            with_prompt, without = velocity.chunk(2)
            difference = with_prompt - without
            if differences.depth:
                differences.store(self._levels(active, _difference_history), difference)
            velocity = without + guidance * difference
        elif differences.depth:
            difference = differences.extrapolated(self._levels(active, _difference_history))
            velocity = velocity + (guidance - 1) * difference
        return velocity, measured

    def _evaluate(self, kind: Kind, active: Active, timestep: np.ndarray) -> tuple[Tensor, PendingRead | None]:
        """Velocities, float32: of all slots with the prompt and then, if they take part, without."""
        model, context, span = self._model, self._slots.context(kind), self._cache.span
        branches = 2 if kind.guided else 1
        times = to_device(np.tile(timestep, branches).astype(np.float32), self._device)
        latents = self._slots.state[:, 0]
        if kind.guided:
            latents = torch.cat([latents, latents])
        if not self._cache.partial:
            (velocity,) = self._run(kind, lambda a, b: (model(a, b, context),), latents, times)
            return velocity.float(), None
        residuals = self._slots.residuals
        levels = self._levels(active, lambda plan: plan.residual_histories[0])
        if kind.guided:
            levels += self._levels(active, lambda plan: plan.residual_histories[1])
        if not kind.full:
            predicted = residuals.extrapolated(levels)
            (velocity,) = self._run(
                kind, lambda a, b, c: (model.forward_reusing(a, b, context, span, c),), latents, times, predicted
            )
            return velocity.float(), None
        velocity, residual = self._run(
            kind, lambda a, b: model.forward_recording(a, b, context, span), latents, times
        )
        measured = None
        if self._cache.measures:
            measured = PendingRead(_squared_errors(residual, residuals.extrapolated(levels)))
        residuals.store(levels, residual)
        return velocity.float(), measured

    def _run(self, kind: Kind, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
        """An evaluation; recorded and replayed where that is faster. The texts stay where they are."""
        return function(*inputs) if self._graphs is None else self._graphs.run(kind, function, *inputs)

    def _levels(self, active: Active, history: Callable[[StepPlan], History]) -> list[tuple[History, float] | None]:
        """For each slot the history and noise level of its row, if it takes part."""
        levels: list[tuple[History, float] | None] = [None] * self._slot_count
        for slot, row in active.items():
            levels[slot] = history(row.plan), row.plan.sigma
        return levels

    def _factors(self, active: Active) -> tuple[Tensor, np.ndarray, Tensor, Tensor, Tensor]:
        """What this step needs of each slot's table, moved in one copy. Empty slots keep their sample.

        Args:
            active: The rows that take part.

        Returns:
            Noise levels [slots], timesteps [slots] (on the host), guidance scales [slots], and the solver's two
            rows of coefficients [slots, TERMS].
        """
        table = np.zeros((self._slot_count, 2 + 2 * TERMS), dtype=np.float32)
        timestep = np.zeros(self._slot_count)
        table[:, 2] = table[:, 2 + TERMS] = 1
        for slot, row in active.items():
            solution, step = row.sample.solution, row.plan.step
            timestep[slot] = solution.timesteps[step]
            table[slot] = np.concatenate(
                [
                    [solution.sigmas[step], row.sample.guidance_of(self._expert)],
                    solution.correct[step],
                    solution.predict[step],
                ]
            )
        sigma, guidance, correct, predict = to_device(table, self._device).split([1, 1, TERMS, TERMS], dim=1)
        return sigma[:, 0], timestep, guidance[:, 0], correct, predict

    def _step_levels(self, active: Active) -> StepLevels:
        """The noise levels of this step; 1 for slots that take no part."""
        table = np.ones((4, self._slot_count), dtype=np.float32)
        for slot, row in active.items():
            solution, step = row.sample.solution, row.plan.step
            before, now, after = solution.sigmas[max(0, step - 1)], solution.sigmas[step], solution.sigmas[step + 1]
            table[:, slot] = before, now, solution.reached[step], after
        return StepLevels(*to_device(table, self._device))

    def _noise(self, active: Active) -> Tensor | None:
        """What this step adds to the samples, [slots, channels, height, width]; None: no row's solver adds noise."""
        factors = {slot: row.sample.solution.noise[row.plan.step] for slot, row in active.items()}
        if not any(factors.values()):
            return None
        # Adding -0.0 changes no number (0.0 would change -0.0): rows without noise keep their bits.
        noise = torch.full((self._slot_count, *self._slots.state.shape[2:]), -0.0)
        for slot, factor in factors.items():
            if factor:
                row = active[slot]
                noise[slot] = float(factor) * conditioning.step_noise(row.sample.seed, row.plan.step, noise.shape[1:])
        return noise.to(self._device)


def _difference_history(plan: StepPlan) -> History:
    return plan.difference_history


def _squared_errors(values: Tensor, predicted: Tensor) -> Tensor:
    """Sums of squares of each row, [2, rows]: of what the prediction misses, and of the values."""
    values = values.float().flatten(1)
    return torch.stack([(values - predicted.flatten(1)).square().sum(1), values.square().sum(1)])


def _errors_of(measured: PendingRead, sequences: Iterable[int]) -> SquaredErrors:
    errors, truths = measured.numbers().astype(np.float64)
    return [(errors[sequence], truths[sequence]) for sequence in sequences if sequence < len(truths)]
