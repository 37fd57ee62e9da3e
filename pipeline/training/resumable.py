"""Trainings that are gone on with exactly where they ended: weights, averages, moments, random numbers, the clock.

Everything is written back into the tensors that are there, so that a step that was captured as a CUDA graph, which
knows their addresses, goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.pipeline.training.loop import Average, Budget
from wanbatch.pipeline.training.optimizers import ADAMW, make_optimizer
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.state_file import load_state, save_state


class Learner:
    """Parameters with their optimizer and their average; its first step can be repeated.

    Args:
        parameters: What is trained.
        device: Where they are.
        decay: Of the average.
        weight_decay: Of the optimizer.
        optimizer: One of `optimizers.OPTIMIZERS`.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        device: torch.device,
        decay: float,
        weight_decay: float = 0.0,
        optimizer: str = ADAMW,
    ):
        self.parameters = list(parameters)
        self.optimizer = make_optimizer(optimizer, self.parameters, device, weight_decay)
        self.average = Average(self.parameters, decay)
        # A step along nothing makes the moments, which are then known by their addresses.
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.begin()
        self.optimizer.clear()
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget what the optimizer gathered; the average begins at the weights as they are."""
        for values in self.optimizer.moments_in_place():
            values.zero_()
        self.average.restart()

    def learn(self, loss: Tensor, processes: Processes = ALONE) -> Tensor:
        """One step down the mean of a loss over all processes, which is returned.

        Args:
            loss: Of this process's part of a batch.
            processes: That make the step together.
        """
        self.optimizer.clear()
        loss.backward()
        mean = processes.averaged(loss.detach(), self.parameters)
        self.apply()
        return mean

    def apply(self) -> None:
        """One step along the gradients that there are."""
        self.optimizer.apply()
        self.average.update()

    def finite(self) -> bool:
        """Whether the weights and their average are numbers; a loss that is one does not say so of its gradients."""
        return all(bool(one.isfinite().all()) for one in (*self.average.live, *self.average.kept))

    def tensors(self) -> list[Tensor]:
        """All that a training needs to be gone on with, where it lies."""
        return [*self.average.live, *self.average.kept, *self.optimizer.moments_in_place()]


class TrainingState:
    """What a training with several learners keeps between its runs, in one file.

    Args:
        learners: By name.
        budget: What of it is spent is kept, too.
        device: Whose random numbers are kept beside those of the CPU.
    """

    def __init__(self, learners: Mapping[str, Learner], budget: Budget, device: torch.device):
        self._learners, self._budget, self._device = dict(learners), budget, device

    def take(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the state as it is.

        Args:
            extra: Plain values that are kept with it.
        """
        state = {
            "tensors": {
                name: [tensor.detach().to("cpu", copy=True) for tensor in learner.tensors()]
                for name, learner in self._learners.items()
            },
            "random": torch.get_rng_state(),
            "step": self._budget.step,
            "elapsed": self._budget.elapsed,
            "extra": dict(extra),
        }
        if self._device.type == "cuda":
            state["random of the device"] = torch.cuda.get_rng_state(self._device)
        return state

    @torch.no_grad()
    def put(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Go on from a state; what was kept beside it is returned."""
        for name, learner in self._learners.items():
            for tensor, kept in zip(learner.tensors(), state["tensors"][name], strict=True):
                tensor.copy_(kept)
            learner.optimizer.clear()
        torch.set_rng_state(state["random"])
        if self._device.type == "cuda" and "random of the device" in state:
            torch.cuda.set_rng_state(state["random of the device"], self._device)
        self._budget.go_on(state["step"], state["elapsed"])
        return state["extra"]

    def save(self, path: Path, extra: Mapping[str, Any]) -> None:
        """Write the state whole, then put it in place of the one before."""
        save_state(self.take(extra), path)

    def load(self, path: Path) -> dict[str, Any]:
        """Go on from a file that `save` wrote; what was kept beside the state is returned. Raises UserError."""
        return self.put(load_state(path))
