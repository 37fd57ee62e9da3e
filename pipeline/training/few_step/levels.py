"""Noise levels of a distillation, as tensors. `u` is a level before the shift, in [0, 1]; 1 is noise alone."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.02, 0.98
"""Before the shift: between these the levels are drawn at which two distributions are compared."""


def shifted(u: Tensor, shift: float) -> Tensor:
    """Noise levels of evenly spaced ones, as `linear` of `sampling/schedules.py` shifts them."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted(level: Tensor, shift: float) -> Tensor:
    """What `shifted` takes to these levels."""
    return level / (shift - (shift - 1) * level)


def random_schedule(first: Tensor, evaluations: int, steps: Tensor, even_share: float) -> Tensor:
    """The levels of some evaluations of a schedule, before the shift.

    Args:
        first: `[B]`, the level that each row starts at.
        evaluations: How many levels, at least 1 and at most `steps`.
        steps: fp32 `[]`, of the whole schedule, down to 0.
        even_share: Part of the rows whose levels are evenly spaced; those of the others are random, one in each of
            `steps - 1` equal parts of (.02, .98).

    Returns:
        `[evaluations, B]`, falling.
    """
    count, device = len(first), first.device
    number = torch.arange(1, evaluations, device=device)[:, None]
    even = 1 - number / steps
    part = (number - 1 + torch.rand(evaluations - 1, count, device=device)) / (steps - 1).clamp(min=1)
    drawn = HIGHEST - (HIGHEST - LOWEST) * part
    inner = torch.where(torch.rand(count, device=device) < even_share, even, drawn)
    return torch.cat([first[None], first * inner])
