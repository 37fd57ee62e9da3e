"""Some steps of a training of two experts, alone or as one of two processes, which import this file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from wanbatch.pipeline.training.processes import Processes, joined_processes
from wanbatch.pipeline.training.resumable import Learner


class TwoExperts(torch.nn.Module):
    """A layer for rows above zero, and one for the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.high, self.low = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        high = rows[:, 0] > 0
        parts = [layer(rows[mine]).square().mean(1) for layer, mine in ((self.high, high), (self.low, ~high))]
        used = [part for part in parts if len(part)]  # as `Experts.velocity` leaves out the one without rows
        return torch.cat(used).mean()


BATCHES = ((1, -1, 1, -1), (1, 1, 1, 1), (1, -1, 1, -1), (-1, -1, -1, -1), (1, 1, -1, 1))
"""Signs of the rows of each batch: both parts of the first one are of one expert each, the second is of one alone."""


def learned(processes: Processes) -> list[torch.Tensor]:
    """Weights, averages, moments and their numbers of steps after the batches."""
    model = TwoExperts()
    learner = Learner(list(model.parameters()), torch.device("cpu"), 0.5, weight_decay=0.1)
    learner.optimizer.set_rate(0.1)
    drawn = torch.Generator().manual_seed(1)
    for signs in BATCHES:
        rows = torch.rand(4, 3, generator=drawn) * torch.tensor(signs)[:, None]
        learner.learn(model.loss(rows[processes.part]), processes)
    return [tensor.detach() for tensor in learner.tensors()]


def learned_as(number: int, port: int, folder: Path) -> None:
    """The same, as one of two processes."""
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.save(learned(joined_processes(cpu=True)), folder / f"{number}.pt")
