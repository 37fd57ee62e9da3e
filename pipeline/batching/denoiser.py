"""Denoising many rows in a fixed number of slots, with continuous batching.

The model always runs on the same number of slots, whatever fills them, so that a row's values do not depend on
its neighbours: a matrix product's rounding depends on the batch's size, not on what else is in it. Each slot has
its own schedule, solver, step, guidance and text. A finished row leaves and the next one enters at once.

Rows share slots if they have one *size class*: height, width, guided or not, and places for text. What one
evaluation runs is the same for all rows that take part in it (`step_cache.Kind`). So that a cheap step never waits
for a neighbour's full one, more rows than slots may be on their way: those whose next steps are of one kind take
the slots, and others are parked meanwhile.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.batching.cuda_graphs import CudaGraphs, worth_capturing
from wanbatch.pipeline.batching.residuals import Reading, moved
from wanbatch.pipeline.batching.slots import Row, SlotTable
from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.requests import EvaluationCounts
from wanbatch.pipeline.models.dit import TEXT_TOKENS, FrameTransformer
from wanbatch.pipeline.sampling.solvers import TERMS, Solution
from wanbatch.pipeline.sampling.step_cache import Kind, StepCache
from wanbatch.pipeline.sampling.step_plan import History, StepPlan, Sums

# Places for text in a slot. With the two that stand for padding, the number of keys is a multiple of 32.
TEXT_PLACES = (30, 62, 126, 254, TEXT_TOKENS)
KEPT_CLASSES = 2
ON_THEIR_WAY = 3  # times the slots: how many rows may have begun, so that enough of them want one kind of step


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One row to denoise.

    start: float32 [channels, height, width], already mixed to the first noise level.
    prompt, negative: text embeddings [tokens, dim]. guidance: 1 runs the prompt alone.
    seed: of the noise that a stochastic solver adds.
    """

    id: str
    start: Tensor
    solution: Solution
    guidance: float
    prompt: Tensor
    negative: Tensor
    seed: int

    @property
    def guided(self) -> bool:
        """Whether the negative prompt plays a part; diffusers draws the line at the same place."""
        return self.guidance > 1

    @property
    def size_class(self) -> tuple[int, int, bool, int]:
        """(height, width, guided, text places); depends on the row alone."""
        tokens = max(len(self.prompt), len(self.negative) if self.guided else 0)
        places = next(places for places in TEXT_PLACES if places >= tokens)
        return (*self.start.shape[1:], self.guided, places)


@dataclass(frozen=True, slots=True, eq=False)
class Denoised:
    """A finished row. latent: float32 [channels, height, width], normalised. seconds: its share of the time."""

    sample: Sample
    latent: Tensor
    seconds: float
    work: EvaluationCounts


class Denoiser:
    """Denoises rows with one model.

    experts: the transformer, or two of which the second takes noise levels below `boundary` (A14B).
    slots: rows in each batch. cache: what is left out at which step; None: nothing.
    kept: size classes whose tensors stay for the next call; 0 if the model may move in between.
    """

    def __init__(
        self,
        experts: Sequence[FrameTransformer],
        slots: int,
        boundary: float | None = None,
        cache: StepCache | None = None,
        kept: int = KEPT_CLASSES,
    ):
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.experts, self.slots, self.boundary = tuple(experts), slots, boundary or 0.0
        self.cache = cache or StepCache(len(experts[0].blocks))
        self.kept = kept
        self._batches: OrderedDict[tuple, _Batch] = OrderedDict()  # least recently used first

    def run(self, samples: Iterable[Sample]) -> Iterator[Denoised]:
        """Rows as they are finished, one size class after the other."""
        classes: dict[tuple, deque[Sample]] = {}
        for sample in samples:
            if sample.solution.steps == 0:
                yield Denoised(sample, sample.start, 0.0, EvaluationCounts())
            else:
                classes.setdefault(sample.size_class, deque()).append(sample)
        for waiting in classes.values():
            yield from self._run_class(waiting)

    @torch.inference_mode()
    def _run_class(self, waiting: deque[Sample]) -> Iterator[Denoised]:
        first = waiting[0]
        batch = self._batches.pop(first.size_class, None)  # one that is left in the middle does not come back
        batch = batch or _Batch(self.experts, self.cache, self.slots, first, still=self.kept > 0)
        clock = _SharedClock(waiting[0].start.device)
        rows: list[Row] = []
        while waiting or rows:
            kind, chosen = self._choose(rows, waiting)
            batch.step(kind, chosen)
            clock.count([row.sample for row in chosen], self.cache.blocks_run(kind))
            if any(row.course.finished for row in chosen):
                rows = [row for row in rows if not row.course.finished]
                clock.share()
                for row, latent in batch.leave(chosen):
                    yield Denoised(row.sample, latent, clock.take(row.sample), row.course.work)
                clock.restart()
        self._batches[first.size_class] = batch
        while len(self._batches) > self.kept:
            self._batches.popitem(last=False)

    def _choose(self, rows: list[Row], waiting: deque[Sample]) -> tuple[Kind, list[Row]]:
        """What to run next and for which rows: of the kind that most rows want, the oldest.

        Rows whose next kind is still on its way from the device are asked only if the others do not fill the slots,
        and a row begins only if no kind has enough rows.
        """
        chosen = self._largest([row for row in rows if row.course.settled])
        if len(chosen) < self.slots:
            chosen = self._largest(rows)
        while len(chosen) < self.slots and waiting and len(rows) < ON_THEIR_WAY * self.slots:
            sample = waiting.popleft()
            rows.append(Row(sample, StepPlan(self.cache, sample.solution, sample.guided, self.boundary)))
            chosen = self._largest(rows)
        return chosen[0].course.kind, chosen

    def _largest(self, rows: Iterable[Row]) -> list[Row]:
        kinds: dict[Kind, list[Row]] = {}
        for row in rows:
            kinds.setdefault(row.course.kind, []).append(row)
        return max((wanting[: self.slots] for wanting in kinds.values()), key=len, default=[])


class _Batch:
    """One evaluation after the other, for the rows of one size class. still: the model will not move."""

    def __init__(self, experts: Sequence[FrameTransformer], cache: StepCache, slots: int, first: Sample, still: bool):
        self.experts, self.cache, self.slots = experts, cache, slots
        self.device = first.start.device
        self.seats = SlotTable(experts, cache, slots, first)
        self.guided = self.seats.guided
        self.graphs = CudaGraphs() if still and worth_capturing(self.device, self.seats.tokens) else None
        self.courses: dict[int, StepPlan] = {}  # by slot: of the rows that take part in the evaluation at hand
        self.occupied: dict[int, Sample] = {}  # their samples
        self.steps = np.zeros(slots, dtype=np.int64)

    def step(self, kind: Kind, rows: Sequence[Row]) -> None:
        """One evaluation of the model for these rows. The other slots run on what is left in them, for nothing."""
        seats = self.seats
        seats.seat(rows)
        taking_part = {slot: row for slot, row in seats.rows.items() if row in rows}
        self.courses = {slot: row.course for slot, row in taking_part.items()}
        self.occupied = {slot: row.sample for slot, row in taking_part.items()}
        for slot, course in self.courses.items():
            self.steps[slot] = course.step
        sigma, timestep, guidance, correct, predict = self._factors()
        velocity, measured = self._velocity(kind, timestep, guidance[:, None, None, None])
        state = advance(seats.state, velocity, sigma, correct, predict, self._noise())
        seats.state = state if len(rows) == len(seats.rows) else torch.where(self._taking_part(), state, seats.state)
        for slot, course in self.courses.items():
            course.done(partial(_sums, measured, range(slot, seats.sequences, self.slots)) if measured else None)

    def leave(self, rows: Iterable[Row]) -> list[tuple[Row, Tensor]]:
        """Free the slots of those rows that are finished; those rows with their latents."""
        return [(row, self.seats.leave(row)) for row in rows if row.course.finished]

    def _velocity(self, kind: Kind, timestep: np.ndarray, guidance: Tensor) -> tuple[Tensor, Reading | None]:
        """The velocity of each slot, guided, and how well the residuals were predicted, if that is measured."""
        velocity, measured = self._evaluate(kind, timestep)
        memory = self.seats.differences
        if kind.guided:
            with_prompt, without = velocity.chunk(2)
            difference = with_prompt - without
            if memory.depth:
                memory.keep(self._recall(lambda course: course.difference), difference)
            velocity = without + guidance * difference
        elif memory.depth:
            difference = memory.predicted(self._recall(lambda course: course.difference))
            velocity = velocity + (guidance - 1) * difference
        return velocity, measured

    def _evaluate(self, kind: Kind, timestep: np.ndarray) -> tuple[Tensor, Reading | None]:
        """Velocities, float32: of all slots with the prompt and then, if they take part, without."""
        model, context, span = self.experts[kind.expert], self.seats.context(kind), self.cache.span
        branches = 2 if kind.guided else 1
        times = moved(np.tile(timestep, branches).astype(np.float32), self.device)
        latents = self.seats.state[:, 0]
        if kind.guided:
            latents = torch.cat([latents, latents])
        if not self.cache.partial:
            (velocity,) = self._run(kind, lambda *given: (model(*given, context),), latents, times)
            return velocity.float(), None
        memory = self.seats.residuals
        recall = self._recall(lambda course: course.residuals[0])
        if kind.guided:
            recall += self._recall(lambda course: course.residuals[1])
        if not kind.full:
            predicted = memory.predicted(recall)
            (velocity,) = self._run(
                kind, lambda a, b, c: (model.forward_reusing(a, b, context, span, c),), latents, times, predicted
            )
            return velocity.float(), None
        velocity, residual = self._run(
            kind, lambda *given: model.forward_recording(*given, context, span), latents, times
        )
        measured = Reading(_errors(residual, memory.predicted(recall))) if self.cache.measures else None
        memory.keep(recall, residual)
        return velocity.float(), measured

    def _run(self, kind: Kind, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
        """An evaluation; recorded and replayed where that is faster. The texts stay where they are."""
        return function(*inputs) if self.graphs is None else self.graphs.run(kind, function, *inputs)

    def _recall(self, history: Callable[[StepPlan], History]) -> list[tuple[History, float] | None]:
        """For each slot the history and noise level of its row, if it takes part."""
        recall: list[tuple[History, float] | None] = [None] * self.slots
        for slot, course in self.courses.items():
            recall[slot] = history(course), course.sigma
        return recall

    def _taking_part(self) -> Tensor:
        """Bool [slots, 1, 1, 1, 1]."""
        taking_part = np.array([slot in self.courses for slot in range(self.slots)])
        return moved(taking_part, self.device)[:, None, None, None, None]

    def _factors(self) -> tuple[Tensor, np.ndarray, Tensor, Tensor, Tensor]:
        """What this step needs of each slot's table, moved in one copy. Empty slots keep their sample."""
        table = np.zeros((self.slots, 2 + 2 * TERMS), dtype=np.float32)
        timestep = np.zeros(self.slots)
        table[:, 2] = table[:, 2 + TERMS] = 1
        for slot, sample in self.occupied.items():
            solution, step = sample.solution, self.steps[slot]
            timestep[slot] = solution.timesteps[step]
            table[slot] = np.concatenate(
                [[solution.sigmas[step], sample.guidance], solution.correct[step], solution.predict[step]]
            )
        sigma, guidance, correct, predict = moved(table, self.device).split([1, 1, TERMS, TERMS], dim=1)
        return sigma[:, 0], timestep, guidance[:, 0], correct, predict

    def _noise(self) -> Tensor | None:
        """What this step adds to the samples, [slots, channels, height, width]; None: no row's solver adds noise."""
        factors = {slot: sample.solution.noise[self.steps[slot]] for slot, sample in self.occupied.items()}
        if not any(factors.values()):
            return None
        # Adding -0.0 changes no number (0.0 would change -0.0): rows without noise keep their bits.
        noise = torch.full((self.slots, *self.seats.state.shape[2:]), -0.0)
        for slot, factor in factors.items():
            if factor:
                seed, step = self.occupied[slot].seed, int(self.steps[slot])
                noise[slot] = float(factor) * conditioning.step_noise(seed, step, noise.shape[1:])
        return noise.to(self.device)


def advance(
    state: Tensor, velocity: Tensor, sigma: Tensor, correct: Tensor, predict: Tensor, noise: Tensor | None = None
) -> Tensor:
    """One step of every row.

    state: [rows, STATES, channels, height, width]: sample, sample before, predictions of x0 newest first.
    velocity: [rows, channels, height, width], the model's (guided) output for the samples.
    sigma: [rows], noise levels. correct, predict: [rows, TERMS], see `Solution`.
    noise: [rows, channels, height, width], added to the next samples as it is.
    Returns the next state. Nothing mixes rows, so a row's values do not depend on the others.
    """
    sample = state[:, :1]
    denoised = sample - sigma[:, None, None, None, None] * velocity[:, None]
    corrected = _weighted(torch.cat([state[:, :2], denoised, state[:, 2:]], dim=1), correct)
    following = _weighted(torch.cat([corrected, denoised, state[:, 2:], state[:, 1:2]], dim=1), predict)
    if noise is not None:
        following = following + noise[:, None]
    return torch.cat([following, corrected, denoised, state[:, 2:-1]], dim=1)


def _weighted(terms: Tensor, factors: Tensor) -> Tensor:
    return (terms * factors[:, :, None, None, None].to(terms.dtype)).sum(dim=1, keepdim=True)


def _errors(values: Tensor, predicted: Tensor) -> Tensor:
    """Sums of squares of each row, [2, rows]: of what the prediction misses, and of the values."""
    values = values.float().flatten(1)
    return torch.stack([(values - predicted.flatten(1)).square().sum(1), values.square().sum(1)])


def _sums(measured: Reading, sequences: Iterable[int]) -> Sums:
    wrong, whole = measured.numbers().astype(np.float64)
    return [(wrong[sequence], whole[sequence]) for sequence in sequences if sequence < len(whole)]


class _SharedClock:
    """Divides the time between two departures among the rows by the blocks that ran for each in it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.shares: dict[Sample, float] = {}
        self.seconds: dict[Sample, float] = {}
        self.restart()

    def count(self, samples: Sequence[Sample], blocks: int) -> None:
        """One evaluation, of so many blocks, for these rows. What surrounds the blocks counts as one more."""
        for sample in samples:
            self.shares[sample] = self.shares.get(sample, 0.0) + (blocks + 1) / len(samples)

    def share(self) -> None:
        elapsed = now(self.device) - self.since
        total = sum(self.shares.values())
        for sample, share in self.shares.items():
            self.seconds[sample] = self.seconds.get(sample, 0.0) + elapsed * share / total
        self.shares.clear()

    def take(self, sample: Sample) -> float:
        return self.seconds.pop(sample)

    def restart(self) -> None:
        """Start again after time that was spent elsewhere."""
        self.since = now(self.device)


def now(device: torch.device) -> float:
    """Seconds, after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
