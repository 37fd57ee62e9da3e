"""Several processes that train one adapter together, each on its part of every batch (data parallel).

All of them draw the same random numbers for the whole batch, and each computes its own part: what is seen does not
depend on how many there are. Gradients are averaged over all, so that all have the same weights, moments and averages
at any time; the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

COUNT_VARIABLE = "WORLD_SIZE"  # that `accelerate launch` and `torchrun` set
LONGEST_WAIT = timedelta(hours=6)  # for the first one, which makes samples and measures while the others wait


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Attributes:
        number: Of this one, from 0.
        count: How many there are.
        state: accelerate's `PartialState`; None: this one is alone.
    """

    number: int = 0
    count: int = 1
    state: Any = None

    @property
    def first(self) -> bool:
        """Whether this one writes files and tells of the progress."""
        return self.number == 0

    @property
    def part(self) -> slice:
        """Which rows of a batch are this one's."""
        return slice(self.number, None, self.count)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of which all processes have as many of the same shapes, by their means over all."""
        if self.state is None:
            return
        from accelerate.utils import reduce

        joined = torch.cat([tensor.flatten() for tensor in tensors])
        parts = reduce(joined, "mean").split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def averaged(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Average the gradients over all processes, and the loss, which is returned.

        A parameter without a gradient in any process has none afterwards, as in a training with one process, whose
        optimizer leaves it and its moments alone: of an expert none of whose noise levels were in the batch.

        Args:
            loss: Of this process's part, `[]`.
            parameters: Of which some may have had no part in it; their gradients are of the loss's dtype.
        """
        if self.count == 1:
            return loss
        took_part = loss.new_tensor([float(parameter.grad is not None) for parameter in parameters])
        for parameter in parameters:
            if parameter.grad is None:  # maybe not so in another process
                parameter.grad = torch.zeros_like(parameter)
        mean = loss.clone()
        self.average([mean, took_part, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
        for parameter, share in zip(parameters, took_part.tolist(), strict=True):
            if not share:
                parameter.grad = None
        return mean

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes of a tensor, which has the same shape in all."""
        if self.state is None:
            return tensor
        from accelerate.utils import reduce

        return reduce(tensor, "sum")

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """Within, the first process has ended before the others begin."""
        if self.state is None:
            yield
            return
        with self.state.main_process_first():
            yield

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()


ALONE = Processes()


def count_of_processes() -> int:
    """How many processes this one was started with, as `accelerate launch` and `torchrun` say it; 1: it is alone."""
    return int(os.environ.get(COUNT_VARIABLE, "1"))


def joined_processes(cpu: bool) -> Processes:
    """The processes that this one was started with, by `accelerate launch`, `torchrun` or `--gpus`.

    Args:
        cpu: Whether the training is on the CPU.
    """
    if count_of_processes() < 2:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes, state)
