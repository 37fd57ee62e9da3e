"""Where our own kernels run. Without Triton, so that it can be asked where that is missing."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch


def kernels_usable(device: torch.device) -> bool:
    """Whether our own kernels run on a device: a GPU, with Triton installed."""
    return device.type == "cuda" and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
