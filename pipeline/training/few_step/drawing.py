"""Random numbers for one process's part of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from wanbatch.pipeline.training.processes import ALONE, Processes


class Drawing:
    """Draws for the whole batch, and gives this process's part: what is seen does not depend on how many there are.

    Args:
        processes: Which have the same state of random numbers.
    """

    def __init__(self, processes: Processes = ALONE):
        self._processes = processes

    def uniform_like(self, values: Tensor) -> Tensor:
        """Numbers in [0, 1); `values`: `[B, ...]` of this process's part."""
        return torch.rand(self._whole(values), device=values.device)[self._processes.part]

    def normal_like(self, values: Tensor) -> Tensor:
        """Normal numbers; `values`: `[B, ...]` of this process's part."""
        return torch.randn(self._whole(values), device=values.device)[self._processes.part]

    def _whole(self, values: Tensor) -> tuple[int, ...]:
        return len(values) * self._processes.count, *values.shape[1:]
