"""Low-rank changes merged into a weight, rounded to FP8 or not, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.common import LARGEST, SMALLEST_PEAK
from wanbatch.pipeline.models.kernels.low_rank import SMALLEST_DOT

ROWS = 16  # of a program
COLUMNS = 128  # that it has at once


def merge_low_rank(weight: Tensor, down: Tensor, up: Tensor, out: Tensor, scale: Tensor | None = None) -> None:
    """A weight with `up @ down` added in float32, rounded once; then to FP8 as `fp8.quantise` does, if it is to be.

    Args:
        weight: [out, in], contiguous.
        down: [rank, in], float32.
        up: [out, rank], float32.
        out: [out, in], contiguous, of the dtype of `weight` or in FP8: where it is written.
        scale: [out], float32, where the scales of rows in FP8 are written; None: `out` is not in FP8.
    """
    rows, columns = weight.shape
    _merge[(triton.cdiv(rows, ROWS),)](
        weight, down, up, out, out if scale is None else scale, rows, columns, len(down),
        *down.stride(), *up.stride(), fp8=scale is not None, rows=ROWS, block=COLUMNS,
        padded=max(SMALLEST_DOT, triton.next_power_of_2(len(down))), precision=_precision(weight.device),
        reciprocal=weight.is_cuda, num_warps=4,
    )  # fmt: skip


def _precision(device: torch.device) -> str:
    """Three products of numbers cut to 11 bits keep 21, on tensor cores of GPUs that have them for float32."""
    return "tf32x3" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "ieee"


@triton.jit
def _sum_of(
    weight, down, up, row, column, columns, rank_stride, in_stride, is_row, is_rank, ranks, precision: tl.constexpr
):
    """Some columns of the changed weight, rounded to its dtype, as float32."""
    is_column = column < columns
    inside = is_row[:, None] & is_column[None, :]
    x = tl.load(weight + row[:, None] * columns + column[None, :], mask=inside, other=0.0)
    place = down + ranks[:, None] * rank_stride + column[None, :] * in_stride
    low = tl.load(place, mask=is_rank[:, None] & is_column[None, :], other=0.0)
    changed = x.to(tl.float32) + tl.dot(up, low, input_precision=precision)
    return changed.to(x.dtype).to(tl.float32)


@triton.jit
def _merge(
    weight, down, up, out, scales, row_count, columns, rank, rank_stride, in_stride, out_stride, up_stride,
    fp8: tl.constexpr, rows: tl.constexpr, block: tl.constexpr, padded: tl.constexpr, precision: tl.constexpr,
    reciprocal: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    ranks = tl.arange(0, padded)
    is_row, is_rank = row < row_count, ranks < rank
    place = up + row[:, None] * out_stride + ranks[None, :] * up_stride
    own = tl.load(place, mask=is_row[:, None] & is_rank[None, :], other=0.0)
    scale = tl.full((rows,), 1.0, dtype=tl.float32)
    if fp8:
        peak = tl.zeros((rows,), dtype=tl.float32)
        for first in range(0, columns, block):
            column = first + tl.arange(0, block)
            x = _sum_of(
                weight, down, own, row, column, columns, rank_stride, in_stride, is_row, is_rank, ranks, precision
            )
            peak = tl.maximum(peak, tl.max(tl.abs(x), axis=1))
        peak = tl.maximum(peak, SMALLEST_PEAK)
        if reciprocal:  # as PyTorch divides by a number on a GPU
            scale = peak * (1.0 / LARGEST)
        else:
            scale = tl.div_rn(peak, tl.zeros((rows,), dtype=tl.float32) + LARGEST)
        tl.store(scales + row, scale, mask=is_row)
    for first in range(0, columns, block):
        column = first + tl.arange(0, block)
        x = _sum_of(
            weight, down, own, row, column, columns, rank_stride, in_stride, is_row, is_rank, ranks, precision
        )
        if fp8:
            x = tl.div_rn(x, tl.zeros_like(x) + scale[:, None])
            x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
        inside = is_row[:, None] & (column < columns)[None, :]
        tl.store(out + row[:, None] * columns + column[None, :], x.to(out.dtype.element_ty), mask=inside)
