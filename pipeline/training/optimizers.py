"""Optimizers of a training beside `loop.Optimizer`, chosen by name: AdamW with moments of 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.errors import UserError
from wanbatch.pipeline.training.loop import Optimizer

ADAMW, ADAMW_8_BIT = "adamw", "adamw8bit"
OPTIMIZERS = (ADAMW, ADAMW_8_BIT)
BETAS = (0.9, 0.98)
INSTEAD = f"--optimizer {ADAMW}"


def check_optimizer(name: str) -> None:
    """Check that what an optimizer needs is installed.

    Args:
        name: One of `OPTIMIZERS`.

    Raises:
        UserError: If a package is missing or cannot be used.
    """
    if name == ADAMW_8_BIT:
        _bitsandbytes()


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], device: torch.device, decay: float
) -> Optimizer | EightBitAdamW:
    """An optimizer by its name.

    Args:
        name: One of `OPTIMIZERS`.
        parameters: What it changes.
        device: Where they are.
        decay: Of the weights.

    Raises:
        UserError: If what it needs is missing.
    """
    if name == ADAMW_8_BIT:
        return EightBitAdamW(parameters, device, decay)
    return Optimizer(parameters, device, decay)


class EightBitAdamW:
    """AdamW of bitsandbytes, whose moments are kept in 8 bits with a scale for every 256 of them.

    Matrices of fewer than 4096 numbers keep moments of 32 bits. It has the methods of `loop.Optimizer` that a
    `resumable.Learner` uses. Its learning rate is a plain number, so its steps cannot be recorded as CUDA graphs.

    Args:
        parameters: What it changes.
        device: Where they are.
        decay: Of the weights.

    Raises:
        UserError: If bitsandbytes is missing.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], device: torch.device, decay: float = 0.0):
        self.parameters = list(parameters)
        self.device = device
        self.updates = torch.zeros((), dtype=torch.int64)  # bitsandbytes counts in plain numbers
        self.adam = _bitsandbytes().optim.AdamW8bit(self.parameters, lr=0.0, betas=BETAS, weight_decay=decay)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps to come."""
        for group in self.adam.param_groups:
            group["lr"] = rate

    def begin(self) -> None:
        """Make the moments by a step along gradients that are zero.

        Raises:
            UserError: If bitsandbytes cannot work on the device.
        """
        try:
            self.adam.step()
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            kind = self.device.type
            raise UserError(f"bitsandbytes cannot work on {kind} here ({reason}): take {INSTEAD}") from error

    def moments_in_place(self) -> list[Tensor]:
        """The tensors that hold the moments, their scales and the number of steps, in a fixed order."""
        kept = ("state1", "state2", "absmax1", "absmax2")
        state = self.adam.state
        return [self.updates, *(state[p][name] for p in self.parameters for name in kept if name in state[p])]

    def clear(self) -> None:
        """Drop the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def apply(self) -> None:
        """One step, along gradients that are clipped to a norm of 1."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        for parameter in self.parameters:
            self.adam.state[parameter]["step"] = int(self.updates)
        self.adam.step()
        self.updates += 1


def _bitsandbytes() -> Any:
    # It warns of a package for matrices of 4 bits, which are not used here.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"--optimizer {ADAMW_8_BIT} needs bitsandbytes: pip install 'wanbatch[train]', or take {INSTEAD}"
        ) from error
    finally:
        logger.setLevel(before)
    return bitsandbytes
