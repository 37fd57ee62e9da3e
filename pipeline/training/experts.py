"""The transformers of a model by noise level, as a training evaluates them: one, or the two of A14B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanbatch.pipeline.adapters.files import HIGH, LOW
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer


@dataclass(frozen=True, slots=True)
class Experts:
    """What predicts velocities.

    Attributes:
        high: The transformer of the high noise levels, or the only one.
        low: That of the low ones; None: there is none.
        boundary: The noise level below which it is `low`.
    """

    high: FrameTransformer
    low: FrameTransformer | None = None
    boundary: float = 0.0

    @property
    def by_name(self) -> dict[str, FrameTransformer]:
        """As files of adapters name them; the only one has none."""
        return {"": self.high} if self.low is None else {HIGH: self.high, LOW: self.low}

    def velocity(self, noisy: Tensor, level: Tensor, embeds: Tensor, lengths: Tensor) -> Tensor:
        """What they predict, fp32, with the adapter that is active; on a GPU in bf16.

        Args:
            noisy: `[B, z, h, w]`.
            level: `[B]`.
            embeds: `[B, L, text_dim]`, zero past each row's length.
            lengths: int64 `[B]`.
        """
        if self.low is None:
            return _velocity_of(self.high, noisy, level, embeds, lengths)
        parts, order = [], []
        for expert, mine in ((self.high, level >= self.boundary), (self.low, level < self.boundary)):
            if bool(mine.any()):
                rows = mine.nonzero().flatten()
                order.append(rows)
                parts.append(_velocity_of(expert, noisy[rows], level[rows], embeds[rows], lengths[rows]))
        return torch.cat(parts)[torch.cat(order).argsort()]

    def of_level(self, level: Tensor, high: float, low: float) -> Tensor:
        """Which of two values a noise level has, that of the one transformer or that of the other; as `level`."""
        values = torch.full_like(level, high)
        return values if self.low is None else torch.where(level >= self.boundary, values, low)


def file_names(name: str, experts: Sequence[str]) -> list[str]:
    """The files of an adapter that changes some transformers, in their order.

    Args:
        name: Of the adapter.
        experts: Names as of `Experts.by_name`.
    """
    return [f"{name}_{expert}.safetensors" if expert else f"{name}.safetensors" for expert in experts]


def _velocity_of(dit: FrameTransformer, noisy: Tensor, level: Tensor, embeds: Tensor, lengths: Tensor) -> Tensor:
    device = noisy.device.type
    # A cache of cast weights would outlive the captured step that filled it.
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
        context = dit.context(embeds, lengths, TEXT_TOKENS)
        return dit(noisy, level * 1000, context).float()
