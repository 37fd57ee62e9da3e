"""A transformer that computes nothing, to count what the denoiser asks of it; and units that come to it in turn."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.jobs.planning.slot_turns import MAX_IN_MODEL
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.sampling.solvers import solve


class StubContext:
    def first(self, count: int) -> StubContext:
        return self

    def repeated(self, count: int) -> StubContext:
        return self

    def views(self, index: int) -> list[Tensor]:
        return []


class StubTransformer:
    """Counts its evaluations."""

    dtype = torch.float32
    patch = (1, 1)
    dim = layers = in_channels = text_dim = 1

    def __init__(self) -> None:
        self.evaluations = 0

    def context(self, embeds: Tensor, lengths: Tensor, padded_length: int) -> StubContext:
        return StubContext()

    def __call__(self, latents: Tensor, timestep: Tensor, context: StubContext) -> Tensor:
        self.evaluations += 1
        return torch.zeros_like(latents)


def samples_of(tokens: Iterable[int], steps: Sequence[int] = (4,), guidance: float = 1.0) -> list[Sample]:
    """Rows with prompts of so many tokens; their steps take turns."""
    solutions = {count: solve("euler", count, 1.0, 1.0, "linear", None) for count in set(steps)}
    start = torch.zeros(1, 1, 1)
    return [
        Sample(str(number), start, solutions[steps[number % len(steps)]], guidance, prompt := torch.zeros(length, 1),
               prompt, number)
        for number, length in enumerate(tokens)
    ]  # fmt: skip


class UnitFeed:
    """Hands out units as a driver does: a worker has a few that are not finished, and gets the next one then."""

    def __init__(self, units: Iterable[Sequence[Sample]], most: int = MAX_IN_MODEL):
        self._units, self._most = deque(units), most
        self._unit_of: dict[Sample, int] = {}
        self._left: Counter[int] = Counter()
        self.handed_out = 0

    def more(self) -> Sequence[Sample] | None:
        """The next unit; None while the worker has enough, and after the last one."""
        if not self._units or sum(1 for left in self._left.values() if left) >= self._most:
            return None
        unit = self._units.popleft()
        self.handed_out += 1
        self._unit_of.update(dict.fromkeys(unit, self.handed_out))
        self._left[self.handed_out] = len(unit)
        return unit

    def done(self, sample: Sample) -> None:
        self._left[self._unit_of[sample]] -= 1


def mixed_lengths(count: int, seed: int = 0) -> list[int]:
    """Tokens of prompts as people write them: most are short, some are long, a few fill what the model reads."""
    draw = np.random.default_rng(seed)
    return np.clip(np.exp(draw.normal(3.6, 0.7, count)), 3, 512).astype(int).tolist()
