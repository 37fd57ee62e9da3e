"""Denoising many rows in a fixed number of slots, with continuous batching.

The model always runs on the same number of slots, whatever fills them, so that a row's values do not depend on
its neighbours: a matrix product's rounding depends on the batch's size, not on what else is in it. Each slot has
its own schedule, solver, step, guidance and text. A finished row leaves and the next one enters at once.

Rows share slots if they have one *size class*: height, width, guided or not, and places for text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline import conditioning
from wanbatch.pipeline.samplers import STATES, TERMS, Solution
from wanbatch.pipeline.transformer import TEXT_TOKENS, Context, FrameTransformer

# Places for text in a slot. With the two that stand for padding, the number of keys is a multiple of 32.
TEXT_PLACES = (30, 62, 126, 254, TEXT_TOKENS)


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


class Denoiser:
    """Denoises rows with one model.

    experts: the transformer, or two of which the second takes noise levels below `boundary` (A14B).
    slots: rows in each batch.
    """

    def __init__(self, experts: Sequence[FrameTransformer], slots: int, boundary: float | None = None):
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.experts, self.slots, self.boundary = tuple(experts), slots, boundary

    def run(self, samples: Iterable[Sample]) -> Iterator[Denoised]:
        """Rows as they are finished, one size class after the other."""
        classes: dict[tuple, deque[Sample]] = {}
        for sample in samples:
            if sample.solution.steps == 0:
                yield Denoised(sample, sample.start, 0.0)
            else:
                classes.setdefault(sample.size_class, deque()).append(sample)
        for waiting in classes.values():
            yield from self._run_class(waiting)

    @torch.inference_mode()
    def _run_class(self, waiting: deque[Sample]) -> Iterator[Denoised]:
        batch = _Batch(self.experts, self.boundary, self.slots, waiting[0])
        clock = _SharedClock(waiting[0].start.device)
        while waiting or batch.occupied:
            for slot in batch.free():
                if waiting:
                    batch.enter(slot, waiting.popleft())
            batch.step()
            clock.count(batch.occupied.values())
            finished = batch.leave()
            if finished:
                clock.share()
                for sample, latent in finished:
                    yield Denoised(sample, latent, clock.take(sample))
                clock.restart()


class _Batch:
    """The slots of one size class: tensors of fixed shapes, and which row is where."""

    def __init__(self, experts: Sequence[FrameTransformer], boundary: float | None, slots: int, first: Sample):
        self.experts, self.boundary, self.slots = experts, boundary, slots
        _, _, self.guided, self.places = first.size_class
        self.device = first.start.device
        self.state = torch.zeros((slots, STATES, *first.start.shape), device=self.device)
        self.contexts: list[Context | None] = [None] * len(experts)
        self.occupied: dict[int, Sample] = {}
        self.steps = np.zeros(slots, dtype=np.int64)

    def free(self) -> list[int]:
        return [slot for slot in range(self.slots) if slot not in self.occupied]

    def enter(self, slot: int, sample: Sample) -> None:
        self.state[slot] = 0
        self.state[slot, 0] = sample.start
        self.steps[slot] = 0
        self.occupied[slot] = sample
        for index in range(len(self.experts)):
            self._place_text(index, slot, sample.prompt)
            if self.guided:
                self._place_text(index, self.slots + slot, sample.negative)

    def step(self) -> None:
        """One evaluation of the model for every slot. An empty slot runs on what is left in it, for nothing."""
        sigma, timestep, guidance, correct, predict = self._factors()
        velocity = self._velocity(timestep)
        if self.guided:
            with_prompt, without = velocity.chunk(2)
            velocity = without + guidance[:, None, None, None] * (with_prompt - without)
        self.state = advance(self.state, velocity, sigma, correct, predict, self._noise())
        self.steps += 1

    def leave(self) -> list[tuple[Sample, Tensor]]:
        """Free the slots whose rows are finished; those rows with their latents."""
        done = [slot for slot, sample in self.occupied.items() if self.steps[slot] == sample.solution.steps]
        return [(self.occupied.pop(slot), self.state[slot, 0].clone()) for slot in done]

    def _velocity(self, timestep: np.ndarray) -> Tensor:
        times = torch.from_numpy(np.tile(timestep, 2 if self.guided else 1)).float().to(self.device)
        latents = self.state[:, 0]
        if self.guided:
            latents = torch.cat([latents, latents])
        takes_second = self._low_noise(timestep)
        if not takes_second.any():
            return self._expert(0, latents, times)
        second = self._expert(1, latents, times)
        if takes_second[list(self.occupied)].all():
            return second
        chosen = torch.from_numpy(np.tile(takes_second, 2 if self.guided else 1)).to(self.device)
        return torch.where(chosen[:, None, None, None], second, self._expert(0, latents, times))

    def _expert(self, index: int, latents: Tensor, times: Tensor) -> Tensor:
        return self.experts[index](latents, times, self.contexts[index]).float()

    def _low_noise(self, timestep: np.ndarray) -> np.ndarray:
        """Which occupied slots the second expert takes."""
        occupied = np.isin(np.arange(self.slots), list(self.occupied))
        return occupied & (timestep < (self.boundary or 0) * 1000)

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
        moved = torch.from_numpy(table).to(self.device)
        sigma, guidance, correct, predict = moved.split([1, 1, TERMS, TERMS], dim=1)
        return sigma[:, 0], timestep, guidance[:, 0], correct, predict

    def _noise(self) -> Tensor | None:
        """What this step adds to the samples, [slots, channels, height, width]; None: no row's solver adds noise."""
        factors = {slot: sample.solution.noise[self.steps[slot]] for slot, sample in self.occupied.items()}
        if not any(factors.values()):
            return None
        # Adding -0.0 changes no number (0.0 would change -0.0): rows without noise keep their bits.
        noise = torch.full((self.slots, *self.state.shape[2:]), -0.0)
        for slot, factor in factors.items():
            if factor:
                seed, step = self.occupied[slot].seed, int(self.steps[slot])
                noise[slot] = float(factor) * conditioning.step_noise(seed, step, noise.shape[1:])
        return noise.to(self.device)

    def _place_text(self, index: int, place: int, embedding: Tensor) -> None:
        """Put a prompt's keys and values into one place of an expert's batch."""
        padded = embedding.new_zeros(1, self.places, embedding.shape[1])
        padded[0, : len(embedding)] = embedding
        row = self.experts[index].context(padded, torch.tensor([len(embedding)], device=self.device))
        batch = self.contexts[index]
        if batch is None:
            rows = self.slots * (2 if self.guided else 1)
            batch = Context(
                row.keys.repeat(1, rows, 1, 1, 1), row.values.repeat(1, rows, 1, 1, 1), row.bias.repeat(rows, 1, 1, 1)
            )
            self.contexts[index] = batch
        batch.keys[:, place], batch.values[:, place] = row.keys[:, 0], row.values[:, 0]
        batch.bias[place] = row.bias[0]


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


class _SharedClock:
    """Divides the time between two departures among the rows by the steps that each made in it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.steps: dict[Sample, int] = {}
        self.seconds: dict[Sample, float] = {}
        self.restart()

    def count(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.steps[sample] = self.steps.get(sample, 0) + 1

    def share(self) -> None:
        elapsed = now(self.device) - self.since
        total = sum(self.steps.values())
        for sample, steps in self.steps.items():
            self.seconds[sample] = self.seconds.get(sample, 0.0) + elapsed * steps / total
        self.steps.clear()

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
