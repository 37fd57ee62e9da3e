"""GELU between two products that adapters change, where each warp has rows of its own: no shared memory in the loop.

A warp goes through a share of the columns of its rows, a step of some times `WIDTH` columns at once. The orders of
columns, ranks and summands are those of `whole_rows.py`: what a thread gets of a dot with `up` is its own pieces of
the product. The same numbers are, within the thread, its operand of the dot with `down`, whose pieces of a thread are
eight neighbouring columns of one rank. So no number crosses threads but a row's peak, once at the end. The warps of a
program are one above the other and take the same pieces of `up` and `down` at about the same time, from the
processor's own cache. The dots have the warps as batch, which Triton gives to one warp each. A tensor that is loaded
or written is a matrix of pieces here, those of a warp's threads side by side. Only the product's pieces are loaded a
step ahead: with those of `up` and `down`, too, a thread takes half as many registers again, and fewer warps fit.

The constants below choose between this kernel and those of `low_rank_gelu.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.activation import gelu_close, gelu_tanh
from wanbatch.pipeline.models.kernels.common import LARGEST, SMALLEST_PEAK, Activation, LowRankTerm
from wanbatch.pipeline.models.kernels.whole_rows import MOST_WIDTHS, PIECE, WIDTH

MOST_COLUMNS = 2**16  # of a row, for places within a program's rows as numbers of four bytes


class WarpTiles(NamedTuple):
    """How the work of a kernel whose warps have rows of their own is cut.

    Attributes:
        rows: Of a warp, 16 or 32.
        columns: Of a step at most, a power of two.
        share: Columns that a program goes through, a multiple of `columns`.
        warps: Of a program.
        registers: Of a thread at most, so that more programs are on a processor; None: as many as the compiler takes.
    """

    rows: int
    columns: int
    share: int
    warps: int
    registers: int | None = None


# None: the kernels of `low_rank_gelu.py` are used, until it is measured on a GPU which are better.
GELU_WARPS: WarpTiles | None = None  # without FP8
MEASURE_WARPS: WarpTiles | None = None  # of FP8 the first pass
QUANTISE_WARPS: WarpTiles | None = None  # of FP8 the second pass


@dataclass(frozen=True, slots=True)
class WarpPlan:
    """The tiles of one launch.

    Attributes:
        tiles: Whose columns are those of a step.
        grid_rows: Programs for the tokens of a sequence.
        shares: Programs for the columns.
        steps: Of each program's loop; the last share may have fewer.
        widths: How many times `WIDTH` ranks there are.
    """

    tiles: WarpTiles
    grid_rows: int
    shares: int
    steps: int
    widths: int


def warp_plan(tiles: WarpTiles | None, product: Tensor, rank: int) -> WarpPlan | None:
    """How a launch is cut, or None where these kernels are not for it.

    Args:
        tiles: None for the kernels of `low_rank_gelu.py`.
        product: [sequences, tokens, columns]; in float32 on a GPU a piece is not what a thread loads at once.
        rank: Of the adapters, the larger one of both products.
    """
    if tiles is None or (product.is_cuda and product.dtype == torch.float32):
        return None
    (tokens, columns), widths = product.shape[1:], triton.cdiv(rank, WIDTH.value)
    step = math.gcd(columns, tiles.columns)
    if step < WIDTH.value or columns > MOST_COLUMNS or widths > MOST_WIDTHS:
        return None
    steps = min(tiles.share, columns) // step
    shares = triton.cdiv(columns, steps * step)
    return WarpPlan(
        tiles._replace(columns=step), triton.cdiv(tokens, tiles.rows * tiles.warps), shares, steps, widths
    )


def gelu_and_down_warps(
    plan: WarpPlan, product: Tensor, term: LowRankTerm, down: Tensor, result: Activation
) -> tuple[Tensor, Tensor]:
    """GELU and the inner part of the next product's change; for FP8 that inner part and the peaks of rows.

    Args:
        plan: Of the launch.
        product: [sequences, tokens, columns].
        term: What is added to it.
        down: [slots, rank, columns], of the next product.
        result: Whose values are written, unless it has a scale.

    Returns:
        Float32 [shares, sequences * tokens, rank] and [shares, sequences * tokens], the second one for FP8 alone.
    """
    rows, fp8 = product.shape[0] * product.shape[1], result.scale is not None
    low = product.new_empty(plan.shares, rows, down.shape[1], dtype=torch.float32)
    peaks = product.new_empty(plan.shares, rows if fp8 else 0, dtype=torch.float32)
    how = "exact" if product.device.type == "cpu" else "quick" if fp8 else "close"
    _launch(plan, product, term, down, (result.values, peaks, peaks, low), measured=fp8, how=how)
    return low, peaks


def gelu_quantised_warps(
    plan: WarpPlan, product: Tensor, term: LowRankTerm, peaks: Tensor, result: Activation
) -> None:
    """GELU in FP8, of rows whose peaks are known.

    Args:
        plan: Of the launch.
        product: [sequences, tokens, columns].
        term: What is added to it.
        peaks: Float32 [shares, sequences * tokens].
        result: What is written.
    """
    how, scale = "exact" if product.device.type == "cpu" else "quick", result.scale
    assert scale is not None
    _launch(plan, product, term, None, (result.values, peaks, scale, peaks), peak_count=len(peaks), how=how)


def _launch(
    plan: WarpPlan, product: Tensor, term: LowRankTerm, down: Tensor | None, written: tuple[Tensor, ...],
    how: str, measured: bool = False, peak_count: int = 0,
) -> None:  # fmt: skip
    (sequences, tokens, columns), (slots, _, rank), tiles = product.shape, term.ups.shape[1:], plan.tiles
    next_rank, padded = rank if down is None else down.shape[1], plan.widths * WIDTH.value
    _gelu_warps[(plan.grid_rows, plan.shares, sequences)](
        product, term.low, term.ups, term.ups if down is None else down, *written, tokens, slots, rank,
        *term.low.stride()[:2], next_rank, sequences * tokens, plan.steps,
        how=how, measured=measured, peak_count=peak_count, full=rank == next_rank == padded, columns=columns,
        splits=len(term.low), rows=tiles.rows, times=tiles.columns // WIDTH.value, widths=plan.widths,
        warps=tiles.warps, num_warps=tiles.warps, num_stages=1, maxnreg=tiles.registers,
    )  # fmt: skip


@triton.jit
def _piece_of_rows(repeats: tl.constexpr, rows: tl.constexpr, warps: tl.constexpr):
    """The rows, within a program, of all its pieces, and their columns, [rows * repeats * warps * 4] each."""
    piece = tl.arange(0, rows // 8 * repeats * warps * WIDTH)
    row = piece // WIDTH % warps * rows + piece // (repeats * warps * WIDTH) * 8 + piece // 4 % 8
    return row, piece // (warps * WIDTH) % repeats * WIDTH + piece % 4 * PIECE


@triton.jit
def _as_pieces(x, repeats: tl.constexpr, rows: tl.constexpr, warps: tl.constexpr):
    """Results of a dot, [warps, rows, repeats * WIDTH], as the pieces of all rows, [pieces, PIECE]."""
    x = tl.permute(tl.reshape(x, (warps, rows // 8, 8, repeats, 4, 4, 2)), (1, 3, 0, 2, 5, 4, 6))
    return tl.reshape(x, (rows // 8 * repeats * warps * WIDTH, PIECE))


@triton.jit
def _as_results(x, repeats: tl.constexpr, rows: tl.constexpr, warps: tl.constexpr):
    """What `_as_pieces` makes, the other way round."""
    x = tl.permute(tl.reshape(x, (rows // 8, repeats, warps, 8, 4, 4, 2)), (2, 0, 3, 1, 5, 4, 6))
    return tl.reshape(x, (warps, rows, repeats * WIDTH))


@triton.jit
def _inner_parts_of_warps(
    lows, split_stride, row_stride, left, rank,
    dtype: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    """The inner part of a program's rows, of which `left` are of its sequence: [warps, rows, widths * WIDTH].

    It is loaded number by number, once: with pieces that are joined, Triton would order the dot's summands otherwise.
    """
    k = tl.arange(0, widths * WIDTH)
    ranks = (k // WIDTH * WIDTH + k // 2 % 4 * PIECE + k // 16 % 2 * 4 + k // 8 % 2 * 2 + k % 2)[None, None, :]
    row = (tl.arange(0, warps)[:, None] * rows + tl.arange(0, rows)[None, :])[:, :, None]
    place, inside = lows + row * row_stride + ranks, (row < left) & (ranks < rank)
    total = tl.load(place, mask=inside, other=0.0)
    for split in tl.static_range(1, splits):
        total += tl.load(place + split * split_stride, mask=inside, other=0.0)
    return total.to(dtype)


@triton.jit
def _pieces(start, places, inside, full: tl.constexpr):
    """Pieces of a matrix that start at these places, zeros where numbers are not inside, unless all are."""
    place = start + places[:, None] + tl.arange(0, PIECE)[None, :]
    return tl.load(place) if full else tl.load(place, mask=inside, other=0.0)


@triton.jit
def _piece_of_columns(times: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """Of the pieces of `up` or `down` for a step, where: a group's first column, the first rank of a width, which of
    the group's columns or the width's ranks a thread has of a dot's, and the first of those that its piece has."""
    piece = tl.arange(0, widths * times * 4 * warps * WIDTH).to(tl.int64)
    tile = piece // (warps * WIDTH)
    own = piece // 8 % 4 * 8 + tile % 4 * 2 + piece // 4 % 2
    return tile // 4 % times * WIDTH, tile // (4 * times) * WIDTH, own, piece % 4 * PIECE


@triton.jit
def _up_pieces(up, rank, column, full: tl.constexpr, times: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """The pieces of a slot's `up` for the columns of a step; each warp has all of them."""
    group, width, own, eighth = _piece_of_columns(times, widths, warps)
    inside = (width + eighth)[:, None] + tl.arange(0, PIECE)[None, :] < rank
    if full:
        rank = widths * WIDTH  # known to the compiler, as are the distances of places then
    return _pieces(up + column * rank, (group + own) * rank + width + eighth, inside, full)


@triton.jit
def _down_pieces(
    down, rank, column,
    full: tl.constexpr, columns: tl.constexpr, times: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    """The pieces of a slot's `down` for the columns of a step; each warp has all of them."""
    group, width, own, eighth = _piece_of_columns(times, widths, warps)
    inside = (width + own < rank)[:, None]
    return _pieces(down + column, (width + own) * columns + group + eighth, inside, full)


@triton.jit
def _plus_times_up(x, low, up, rows: tl.constexpr, times: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """Pieces of a product with what an adapter adds to them, [warps, rows, times * WIDTH], float32."""
    matrix = tl.permute(tl.reshape(up, (widths, 4 * times, warps, 8, 4, 2, 2, 2)), (2, 0, 5, 6, 4, 7, 1, 3))
    matrix = tl.reshape(matrix, (warps, widths * WIDTH, times * WIDTH))
    return tl.dot(low, matrix, _as_results(x, times, rows, warps).to(tl.float32), input_precision="ieee")


@triton.jit
def _plus_times_down(total, x, down, times: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """Sums, [warps, rows, widths * WIDTH], with what some columns add to them."""
    matrix = tl.permute(tl.reshape(down, (widths, times, 4, warps, 8, 4, 4, 2)), (3, 1, 6, 5, 7, 0, 2, 4))
    matrix = tl.reshape(matrix, (warps, times * WIDTH, widths * WIDTH))
    return tl.dot(x.to(matrix.dtype), matrix, total, input_precision="ieee")


@triton.jit
def _gelu(x, how: tl.constexpr):
    """GELU, float32: exactly, closely by a GPU's own functions, or quickly; see `activation.py`."""
    return gelu_close(x) if how == "close" else gelu_tanh(x, how == "quick")


@triton.jit
def _product_pieces(states, places):
    """Pieces of the product, which do not take the place of the matrices in a processor's own cache."""
    return tl.load(states + places[:, None] + tl.arange(0, PIECE)[None, :], eviction_policy="evict_first")


@triton.jit
def _store_results(out, places, mask, x, repeats: tl.constexpr, rows: tl.constexpr, warps: tl.constexpr):
    """Write results of a dot to where their pieces start."""
    place = out + places[:, None] + tl.arange(0, PIECE)[None, :]
    tl.store(place, _as_pieces(x, repeats, rows, warps).to(out.dtype.element_ty), mask=mask[:, None])


@triton.jit
def _peaks(x, rows: tl.constexpr, times: tl.constexpr, warps: tl.constexpr):
    """The largest magnitudes of a thread's own columns, [warps, rows / 8, 8, 4]."""
    most = tl.max(tl.reshape(tl.abs(x), (warps, rows // 8, 8, times, 4, 4, 2)), axis=6)
    return tl.max(tl.max(most, axis=4), axis=3)


@triton.jit
def _store_inner_parts(lows, total, left, rank, rows: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """Write the inner part of a program's rows for the next product, [warps, rows, widths * WIDTH], by halves."""
    row, ranks = _piece_of_rows(widths, rows, warps)
    x = tl.reshape(_as_pieces(total, widths, rows, warps), (rows // 8 * widths * warps * WIDTH, 2, PIECE // 2))
    a, b = tl.split(tl.permute(x, (0, 2, 1)))
    four = tl.arange(0, PIECE // 2)[None, :]
    place, mask = lows + (row * rank + ranks)[:, None] + four, (row < left)[:, None]
    tl.store(place, a, mask=mask & (ranks[:, None] + four < rank))
    tl.store(place + PIECE // 2, b, mask=mask & (ranks[:, None] + PIECE // 2 + four < rank))


@triton.jit
def _factor_of_rows(
    peaks, scales, share, row_count, left, count: tl.constexpr, rows: tl.constexpr, warps: tl.constexpr
):
    """What a program's rows are multiplied by for FP8, [warps, rows, 1]; the first share writes their scales."""
    number = tl.arange(0, rows * warps)
    peak = tl.zeros((rows * warps,), dtype=tl.float32)
    for other in tl.static_range(count):
        peak = tl.maximum(peak, tl.load(peaks + other * row_count + number, mask=number < left, other=0.0))
    peak = tl.maximum(peak, SMALLEST_PEAK)
    if share == 0:
        tl.store(scales + number, peak / LARGEST, mask=number < left)
    return tl.reshape((tl.zeros((1,), dtype=tl.float32) + LARGEST) / peak, (warps, rows, 1))


@triton.jit
def _gelu_warps(
    states, lows, ups, downs, out, peaks, scales, next_lows, tokens, slots, rank, split_stride, row_stride, next_rank,
    row_count, steps,
    how: tl.constexpr, measured: tl.constexpr, peak_count: tl.constexpr, full: tl.constexpr, columns: tl.constexpr,
    splits: tl.constexpr, rows: tl.constexpr, times: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    """One pass: `measured` is the first of FP8, `peak_count` other than 0 the second, which has no inner part."""
    share, sequence, begin = tl.program_id(1), tl.program_id(2), tl.program_id(0) * rows * warps
    slot, first, left = (sequence % slots).to(tl.int64), sequence.to(tl.int64) * tokens + begin, tokens - begin
    lows += first * row_stride
    low = _inner_parts_of_warps(
        lows, split_stride, row_stride, left, rank, ups.dtype.element_ty, splits, rows, widths, warps
    )
    row, own = _piece_of_rows(times, rows, warps)
    places, given, step = row * columns + own, tl.minimum(row, left - 1) * columns + own, times * WIDTH
    column, end = share * steps * step, tl.minimum(columns, (share + 1) * steps * step)
    states, out = states + first * columns, out + first * columns
    up, down = ups + slot * columns * rank, downs + slot * next_rank * columns
    peak = tl.zeros((warps, rows // 8, 8, 4), dtype=tl.float32)
    total = tl.zeros((warps, rows, widths * WIDTH), dtype=tl.float32)
    if peak_count > 0:
        factor = _factor_of_rows(peaks + first, scales + first, share, row_count, left, peak_count, rows, warps)
    ahead = _product_pieces(states + column, given)
    while column < end:
        x, matrix = ahead, _up_pieces(up, rank, column, full, times, widths, warps)
        following = column + step * (column + step < end)  # the last one again, so that nothing must be masked
        if peak_count > 0:
            ahead = _product_pieces(states + following, given)
            x = _gelu(_plus_times_up(x, low, matrix, rows, times, widths, warps), how) * factor
        else:
            next_matrix = _down_pieces(down, next_rank, column, full, columns, times, widths, warps)
            ahead = _product_pieces(states + following, given)
            x = _gelu(_plus_times_up(x, low, matrix, rows, times, widths, warps), how)
            total = _plus_times_down(total, x, next_matrix, times, widths, warps)
        if measured:
            peak = tl.maximum(peak, _peaks(x, rows, times, warps))
        else:
            _store_results(out + column, places, row < left, x, times, rows, warps)
        column += step
    at = share * row_count + first
    if measured:
        number = tl.arange(0, rows * warps)
        tl.store(peaks + at + number, tl.reshape(tl.max(peak, axis=3), (rows * warps,)), mask=number < left)
    if peak_count == 0:
        _store_inner_parts(next_lows + at * next_rank, total, left, next_rank, rows, widths, warps)
