"""GELU between the two products of a feed-forward layer, with what adapters add to the first and take for the second.

The widest tensor of a block is between these products. In bf16 it is read once and written once here. For FP8 a row's
largest magnitude must be known before its first number can be written, and rows are too wide for a program to hold as
many of them as share the adapter's matrices (16 rows of 14336 take more than all registers of a processor). So there
are two passes, each of which makes GELU anew from the product: reading it twice is less than writing and reading it
once more in between. The inner part of the second product's change is made from the same tiles, before they are
rounded to FP8, so that nothing has to be read for it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.activation import gelu_tanh
from wanbatch.pipeline.models.kernels.common import (
    LARGEST,
    SMALLEST_PEAK,
    Activation,
    LowRankTerm,
    new_activation,
)
from wanbatch.pipeline.models.kernels.low_rank import Tiles, inner_part, plan, plus_times_up, tile, times_down

# The best of those that benchmarks/low_rank.py compared on an H200: without FP8, of FP8 the first and second pass.
GELU = MEASURE = QUANTISE = Tiles(64, 64, 1792, 4, 3)


def gelu_low_rank(
    product: Tensor, term: LowRankTerm, down: Tensor, ups: Tensor, fp8: bool = False
) -> tuple[Activation, LowRankTerm]:
    """GELU (tanh form) of a product with what adapters add to it, and the inner part for the next product.

    Args:
        product: [sequences, tokens, columns].
        term: What is added to it.
        down: [slots, rank, columns], of the next product.
        ups: [1, slots, out, rank], of the next product.
        fp8: Quantise the result.

    Returns:
        The next product's inputs, [sequences * tokens, columns], and what is added to it.
    """
    sequences, tokens, columns = product.shape
    result = new_activation(sequences * tokens, columns, product, fp8)
    low, peaks = _gelu_with_down(product, term, down, result)
    if fp8:
        _quantised(product, term, peaks, result)
    return result, LowRankTerm(low, ups)


def _gelu_with_down(product: Tensor, term: LowRankTerm, down: Tensor, result: Activation) -> tuple[Tensor, Tensor]:
    """As `gelu_and_down_warps`."""
    (sequences, tokens, columns), fp8 = product.shape, result.scale is not None
    slots, rank, rows = term.ups.shape[1], term.ups.shape[3], sequences * tokens
    cut = plan(MEASURE if fp8 else GELU, tokens, columns, max(rank, down.shape[1]), down.dtype)
    low = product.new_empty(cut.shares, rows, down.shape[1], dtype=torch.float32)
    peaks = product.new_empty(cut.shares, rows if fp8 else 0, dtype=torch.float32)
    _gelu_and_down[(cut.grid_rows, cut.shares, sequences)](
        product, result.values, peaks, term.low, term.ups, down, low, tokens, columns, slots, rank,
        *term.low.stride()[:2], down.shape[1], rows, cut.steps,
        measured=fp8, quick=fp8 and product.is_cuda, splits=len(term.low), rows=cut.tiles.rows,
        block=cut.tiles.columns, padded=cut.padded, num_warps=cut.tiles.warps, num_stages=cut.tiles.stages,
    )  # fmt: skip
    return low, peaks


def _quantised(product: Tensor, term: LowRankTerm, peaks: Tensor, result: Activation) -> None:
    """As `gelu_quantised_warps`."""
    sequences, tokens, columns = product.shape
    slots, rank = term.ups.shape[1], term.ups.shape[3]
    cut = plan(QUANTISE, tokens, columns, rank, term.ups.dtype)
    _gelu_quantised[(cut.grid_rows, cut.shares, sequences)](
        product, result.values, result.scale, peaks, term.low, term.ups, tokens, columns, slots, rank,
        *term.low.stride()[:2], sequences * tokens, cut.steps,
        quick=product.is_cuda, peak_count=len(peaks), splits=len(term.low), rows=cut.tiles.rows,
        block=cut.tiles.columns, padded=cut.padded, num_warps=cut.tiles.warps, num_stages=cut.tiles.stages,
    )  # fmt: skip


@triton.jit
def _gelu_and_down(
    states, out, peaks, lows, ups, downs, next_lows, tokens, columns, slots, rank, split_stride, row_stride,
    next_rank, row_count, steps,
    measured: tl.constexpr, quick: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
    padded: tl.constexpr,
):  # fmt: skip
    share, sequence = tl.program_id(1), tl.program_id(2)
    slot = (sequence % slots).to(tl.int64)
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    ranks = tl.arange(0, padded)
    is_row, is_rank = token < tokens, ranks < next_rank
    at = sequence.to(tl.int64) * tokens + token
    low = inner_part(lows, split_stride, row_stride, at, is_row, 0, rank, ups.dtype.element_ty, splits, padded)
    up, down = ups + slot * columns * rank, downs + slot * next_rank * columns
    peak = tl.zeros((rows,), dtype=tl.float32)
    total = tl.zeros((rows, padded), dtype=tl.float32)
    starts, end = at * columns, tl.minimum(columns, (share + 1) * steps * block)
    column = share * steps * block + tl.arange(0, block)
    ahead = tile(states, starts, is_row, column, end)
    for _ in range(steps):
        x, is_column = ahead, column < end
        ahead = tile(states, starts, is_row, column + block, end)
        x = gelu_tanh(plus_times_up(x, low, up, column, is_column, rank, padded), quick)
        if measured:
            peak = tl.maximum(peak, tl.max(tl.abs(x), axis=1))
        else:
            inside = is_row[:, None] & is_column[None, :]
            tl.store(out + starts[:, None] + column[None, :], x.to(out.dtype.element_ty), mask=inside)
        total += times_down(x, down, ranks, is_rank, column, is_column, columns)
        column += block
    if measured:
        tl.store(peaks + share * row_count + at, peak, mask=is_row)
    place = next_lows + (share * row_count + at)[:, None] * next_rank + ranks[None, :]
    tl.store(place, total, mask=is_row[:, None] & is_rank[None, :])


@triton.jit
def _gelu_quantised(
    states, out, row_scales, peaks, lows, ups, tokens, columns, slots, rank, split_stride, row_stride,
    row_count, steps,
    quick: tl.constexpr, peak_count: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
    padded: tl.constexpr,
):  # fmt: skip
    share, sequence = tl.program_id(1), tl.program_id(2)
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = token < tokens
    at = sequence.to(tl.int64) * tokens + token
    low = inner_part(lows, split_stride, row_stride, at, is_row, 0, rank, ups.dtype.element_ty, splits, padded)
    up = ups + (sequence % slots).to(tl.int64) * columns * rank
    peak = tl.zeros((rows,), dtype=tl.float32)
    for number in tl.static_range(peak_count):
        peak = tl.maximum(peak, tl.load(peaks + number * row_count + at, mask=is_row, other=0.0))
    peak = tl.maximum(peak, SMALLEST_PEAK)
    if share == 0:
        tl.store(row_scales + at, peak / LARGEST, mask=is_row)
    factor = ((tl.zeros((rows,), dtype=tl.float32) + LARGEST) / peak)[:, None]
    starts, end = at * columns, tl.minimum(columns, (share + 1) * steps * block)
    column = share * steps * block + tl.arange(0, block)
    ahead = tile(states, starts, is_row, column, end)
    for _ in range(steps):
        x, is_column = ahead, column < end
        ahead = tile(states, starts, is_row, column + block, end)
        x = gelu_tanh(plus_times_up(x, low, up, column, is_column, rank, padded), quick)
        place = out + starts[:, None] + column[None, :]
        tl.store(place, (x * factor).to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
        column += block
