"""Low-rank changes merged into weights: one arithmetic, for what a whole run merges and for what rows do."""

from __future__ import annotations

import torch
from torch import Tensor

from wanbatch.pipeline.models.own_kernels import kernels_usable


def merged(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """A weight with `up @ down` added in float32, rounded once; the same bits for the same tensors on one device.

    Args:
        weight: [out, in].
        down: [rank, in], float32.
        up: [out, rank], float32, with all factors in it.

    Returns:
        [out, in], in the dtype of `weight`.
    """
    if by_kernel(weight):
        from wanbatch.pipeline.models.kernels import merge_low_rank  # needs Triton

        out = torch.empty_like(weight)
        merge_low_rank(weight, down, up, out)
        return out
    return torch.addmm(weight.float(), up, down).to(weight.dtype)


def by_kernel(weight: Tensor) -> bool:
    """Whether our own kernel merges into a weight: in two bytes a number, on a GPU."""
    return kernels_usable(weight.device) and weight.itemsize == 2 and weight.is_contiguous()
