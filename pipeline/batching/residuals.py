"""What the rows of a batch remember of earlier evaluations, on the device, and numbers on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.sampling.step_plan import History

Recall = Sequence[tuple[History, float] | None]
"""For each row of an evaluation its history and its noise level; None for a row that takes no part."""


def moved(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of an array on the device; on a GPU the host does not wait for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class ResidualCache:
    """The last `depth` values of each row, in places that the row's `History` knows.

    Shapes never change and nothing here reads a tensor on the host.
    """

    def __init__(self, rows: int, depth: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.depth, self.device = depth, device
        # One place more than is ever read takes the values of rows that take no part.
        self.values = torch.zeros((rows, depth + 1 if depth else 0, *shape), dtype=dtype, device=device)

    def of(self, row: int) -> list[Tensor]:
        """A view of what one row remembers; empty if nothing is ever remembered."""
        return [self.values[row, : self.depth]] if self.depth else []

    def predicted(self, recall: Recall) -> Tensor:
        """What each row's values extrapolate to, float32 [len(recall), *shape]; zero for who takes no part."""
        table = np.zeros((len(recall), self.depth), dtype=np.float32)
        for row, entry in enumerate(recall):
            if entry is not None:
                history, sigma = entry
                table[row] = history.weights(sigma)
        weights = moved(table, self.device)
        weights = weights.reshape(*table.shape, *[1] * (self.values.ndim - 2))
        terms = [weights[:, place] * self.values[: len(recall), place] for place in range(self.depth)]
        return sum(terms[1:], terms[0])

    def keep(self, recall: Recall, values: Tensor) -> None:
        """Remember a value [len(recall), *shape] for each row that takes part, over its oldest."""
        places = [self.depth if entry is None else entry[0].place(entry[1]) for entry in recall]
        rows = torch.arange(len(recall), device=self.device)
        self.values[rows, moved(np.array(places), self.device)] = values.to(self.values.dtype)


class Reading:
    """A tensor on its way to the host. On a GPU neither side waits until the numbers are asked for."""

    def __init__(self, values: Tensor):
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values

    def numbers(self) -> np.ndarray:
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()
