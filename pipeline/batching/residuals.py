"""What the rows of a batch keep of earlier evaluations, on the device, and what that extrapolates to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.core.device import to_device
from wanbatch.pipeline.sampling.step_plan import History

Levels = Sequence[tuple[History, float] | None]
"""For each row of an evaluation its history and its noise level; None for a row that takes no part."""


class ResidualCache:
    """The last values of each row, at the indices that the row's `History` knows.

    Shapes never change and nothing here reads a tensor on the host.

    Args:
        rows: How many rows the batch has.
        depth: How many values of each row are kept; 0 keeps nothing.
        shape: Of one value.
        dtype: Of the values.
        device: Where they are kept.
    """

    def __init__(self, rows: int, depth: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.depth, self._device = depth, device
        # One more than is ever read takes the values of rows that take no part.
        self._values = torch.zeros((rows, depth + 1 if depth else 0, *shape), dtype=dtype, device=device)

    def views(self, row: int) -> list[Tensor]:
        """A view of all that is kept for one row; empty if nothing is ever kept."""
        return [self._values[row, : self.depth]] if self.depth else []

    def extrapolated(self, levels: Levels) -> Tensor:
        """What each row's values extrapolate to, float32 [len(levels), *shape]; zero for rows that take no part."""
        table = np.zeros((len(levels), self.depth), dtype=np.float32)
        for row, entry in enumerate(levels):
            if entry is not None:
                history, sigma = entry
                table[row] = history.weights(sigma)
        weights = to_device(table, self._device)
        weights = weights.reshape(*table.shape, *[1] * (self._values.ndim - 2))
        terms = [weights[:, index] * self._values[: len(levels), index] for index in range(self.depth)]
        return sum(terms[1:], terms[0])

    def store(self, levels: Levels, values: Tensor) -> None:
        """Keep a value [len(levels), *shape] for each row that takes part, over its oldest."""
        indices = [self.depth if entry is None else entry[0].index_for(entry[1]) for entry in levels]
        rows = torch.arange(len(levels), device=self._device)
        self._values[rows, to_device(np.array(indices), self._device)] = values.to(self._values.dtype)
