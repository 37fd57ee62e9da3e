"""Rows as the denoiser takes them and gives them back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from wanbatch.pipeline.core.device import Span
from wanbatch.pipeline.core.prompts import TEXT_LENGTHS
from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts
from wanbatch.pipeline.sampling.solvers import Solution


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """What a row needs beside its start, if not all of its places start at the first noise level.

    Attributes:
        latent: Of the sources, float32 [channels, height, width], normalised.
        noise: Of the row's start, as `latent`.
        levels: Float32 [height, width], the noise level at which each place starts; infinite for those that start
            with the row.
        softness: Noise levels above its own over which a place is released.
    """

    latent: Tensor
    noise: Tensor
    levels: Tensor
    softness: float = 0.0


class RowAdapters(Protocol):
    """The adapters of a row, with their weights."""

    @property
    def key(self) -> Hashable:
        """Equal for rows with the same adapters and weights."""

    @property
    def rank(self) -> int:
        """Of the stacks that hold them: that of the adapters together, or more."""

    def pairs(self, expert: int) -> Mapping[str, tuple[Tensor, Tensor]]:
        """What a transformer gets, on the device, as `AdapterSlots.fill` takes it."""

    def entered(self, expert: int) -> None:
        """Take note that the row is in a slot and has what it needs of a transformer's."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One row to denoise.

    Attributes:
        id: Of the request.
        start: Float32 [channels, height, width], already mixed to the first noise level.
        solution: The noise levels and the solver's coefficients.
        guidance: Classifier-free guidance scale; 1 runs the prompt alone.
        prompt: Text embedding [tokens, dim].
        negative: As `prompt`, of the negative prompt.
        seed: Of the noise that a stochastic solver adds.
        guidance_2: Guidance scale of the second expert; None for `guidance`.
        region: Where the row starts later; None: all places start with it.
        adapters: What changes the model for this row; None for nothing.
    """

    id: str
    start: Tensor
    solution: Solution
    guidance: float
    prompt: Tensor
    negative: Tensor
    seed: int
    guidance_2: float | None = None
    region: Region | None = None
    adapters: RowAdapters | None = None

    def guidance_of(self, expert: int) -> float:
        """The guidance scale of an expert, 0 or 1."""
        return self.guidance_2 if expert == 1 and self.guidance_2 is not None else self.guidance

    @property
    def guided(self) -> bool:
        """Whether the negative prompt plays a part; diffusers draws the line at the same place."""
        return self.guidance > 1

    @property
    def size_class(self) -> tuple[int, int, bool, int, bool, int]:
        """What rows that share slots have in common.

        Height, width, whether it is guided, text length, whether it has a region, and the rank of the stacks of its
        adapters, 0 for a row without. Of this row alone.
        """
        tokens = max(len(self.prompt), len(self.negative) if self.guided else 0)
        length = next(length for length in TEXT_LENGTHS if length >= tokens)
        rank = 0 if self.adapters is None else self.adapters.rank
        return (*self.start.shape[1:], self.guided, length, self.region is not None, rank)


@dataclass(frozen=True, slots=True, eq=False)
class Denoised:
    """A finished row.

    Attributes:
        sample: What was asked for.
        latent: Float32 [channels, height, width], normalised.
        spans: The row's shares of the device's time.
        slot_steps: The row's share of the slots of its evaluations, those without a row included; as many as its
            evaluations if no slot was ever empty.
        work: Evaluations of the model, and of its blocks.
    """

    sample: Sample
    latent: Tensor
    spans: tuple[Span, ...]
    slot_steps: float
    work: EvaluationCounts
