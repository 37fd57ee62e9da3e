"""Banks of real pictures that trainings draw from."""

from __future__ import annotations

import torch
from torch import Tensor

Bank = tuple[Tensor, Tensor]
"""Pictures, uint8 `[N, 3, H, W]`, and their attributes, int64 `[N, 9]`, on the training device."""


def draw_pictures(bank: Bank, count: int) -> tuple[Tensor, Tensor]:
    """Random pictures of a bank: fp32 `[count, 3, H, W]` in [-1, 1] and their attributes."""
    images, attributes = bank
    index = torch.randint(len(images), (count,), device=images.device)
    return images[index].float() / 127.5 - 1, attributes[index]
