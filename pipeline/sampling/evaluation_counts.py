"""What a row's denoising cost, counted in evaluations of the model and in its blocks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationCounts:
    """How many of a picture's evaluations of the model, and of their blocks, ran and how many were left out.

    Attributes:
        steps_full: Evaluations of which every block ran, with and (under guidance) without the prompt.
        steps_cached: The other evaluations.
        blocks_full: Blocks that ran, over all evaluations, with and without the prompt.
        blocks_cached: Blocks that were left out.
    """

    steps_full: int = 0
    steps_cached: int = 0
    blocks_full: int = 0
    blocks_cached: int = 0

    def __add__(self, other: EvaluationCounts) -> EvaluationCounts:
        return EvaluationCounts(
            self.steps_full + other.steps_full,
            self.steps_cached + other.steps_cached,
            self.blocks_full + other.blocks_full,
            self.blocks_cached + other.blocks_cached,
        )
