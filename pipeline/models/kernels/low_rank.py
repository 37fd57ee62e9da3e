"""Low-rank changes of products, for batches whose rows have adapters of their own.

What an adapter adds to a product is `up (down x)`. The inner part, [rows, rank], is made by a kernel that reads the
product's inputs once, in FP8 where the layer's inputs are. The outer part is made tile by tile, as large as the
product's output, by the kernels that read that output anyway: it never is in memory. All is bound by memory, so what
counts is how often the large tensors are read and written. A tile is loaded before the one before it is worked on.

Programs have some rows of one sequence, whose slot has one adapter, and some columns. A long sum is made in shares
of its columns by several programs, which write one summand each, and whoever reads them adds them up in order. The
shares follow from the columns alone, so a row's result depends neither on other rows nor on what ran first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.common import Activation, LowRankTerm, PendingResidual

WIDEST = 128  # columns of the inner part, or rank, that tiles of full size hold
LARGEST_TILE = 2**15  # numbers of a matrix that a program holds where the rank is larger than that
SMALLEST_DOT = 16  # rows, columns and summands of a `tl.dot`


class Tiles(NamedTuple):
    """How a kernel's work is cut.

    Attributes:
        rows: Tokens of a program.
        columns: That it holds at once.
        share: Columns that it goes through, a multiple of `columns`.
        warps: Of a program.
        stages: Of its loop, for loads ahead of their use.
    """

    rows: int
    columns: int
    share: int
    warps: int
    stages: int


# The best of those that benchmarks/low_rank.py compared on an H200.
DOWN = Tiles(64, 64, 3072, 4, 4)
DOWN_FP8 = Tiles(128, 64, 1536, 8, 4)
ADD = Tiles(64, 128, 3072, 8, 2)
RESIDUAL = Tiles(32, 128, 1024, 4, 2)


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of one launch.

    Attributes:
        tiles: Cut to the size of what is there.
        padded: The rank as a power of two, at least what a dot takes.
        grid_rows: Programs for the tokens of a sequence.
        shares: Programs for the columns.
        steps: Of each program's loop.
    """

    tiles: Tiles
    padded: int
    grid_rows: int
    shares: int
    steps: int


def plan(tiles: Tiles, tokens: int, columns: int, rank: int, dtype: torch.dtype) -> Plan:
    """How a launch is cut.

    Args:
        tiles: For ranks up to `WIDEST` in two bytes a number; others take fewer rows and columns at once.
        tokens: Of a sequence.
        columns: That are gone through.
        rank: Columns of the inner part that a program holds.
        dtype: Of the matrices.
    """
    padded = max(SMALLEST_DOT, triton.next_power_of_2(rank))
    if padded > WIDEST or dtype == torch.float32:
        fewer = max(SMALLEST_DOT, min(32, tiles.columns, LARGEST_TILE // padded))
        tiles = tiles._replace(rows=SMALLEST_DOT, columns=fewer, stages=1)
    block = max(SMALLEST_DOT, min(tiles.columns, triton.next_power_of_2(columns)))
    steps = triton.cdiv(min(tiles.share, columns), block)
    shares = triton.cdiv(columns, steps * block)
    return Plan(tiles._replace(columns=block), padded, triton.cdiv(tokens, tiles.rows), shares, steps)


def low_rank_term(activation: Activation, down: Tensor, ups: Tensor, tokens: int) -> LowRankTerm:
    """The inner part of what adapters add to a product, of the product's inputs as the layer sees them.

    Args:
        activation: The inputs, [sequences * tokens, in].
        down: [slots, parts * rank, in]; each slot has every `slots`-th sequence.
        ups: [parts, slots, out, rank].
        tokens: Of a sequence.
    """
    values, scale = activation.values, activation.scale
    (rows, columns), (slots, width) = values.shape, down.shape[:2]
    block = min(WIDEST, triton.next_power_of_2(width))
    cut = plan(DOWN if scale is None else DOWN_FP8, tokens, columns, block, down.dtype)
    low = values.new_empty(cut.shares, rows, width, dtype=torch.float32)
    grid = (cut.grid_rows, cut.shares * triton.cdiv(width, cut.padded), rows // tokens)
    _down[grid](
        values, values if scale is None else scale, down, low, tokens, columns, slots, width, rows * width,
        cut.shares, cut.steps,
        quantised=scale is not None, rows=cut.tiles.rows, block=cut.tiles.columns, padded=cut.padded,
        num_warps=cut.tiles.warps, num_stages=cut.tiles.stages,
    )  # fmt: skip
    return LowRankTerm(low, ups)


def add_low_rank(product: Tensor, term: LowRankTerm, first: int = 0, tiles: Tiles | None = None) -> Tensor:
    """A product with what adapters add to its parts from one on, in place.

    Args:
        product: [sequences, tokens, parts * out].
        term: Of all parts.
        first: The first of the parts that are changed.
        tiles: None: `ADD`.
    """
    _launch_add(product, product, term, range(first, len(term.ups)), tiles or ADD, squared=False)
    return product


def sums_of_squares(product: Tensor, term: LowRankTerm, parts: int, tiles: Tiles) -> Tensor:
    """Of the first parts of a product with what adapters add to them, row by row, without writing the parts.

    Args:
        product: [sequences, tokens, parts * out].
        term: Of all parts.
        parts: How many are wanted.
        tiles: How the work is cut.

    Returns:
        Float32 [shares, parts, sequences * tokens], to be added up over the shares.
    """
    cut = plan(tiles, product.shape[1], term.ups.shape[2], term.ups.shape[3], term.ups.dtype)
    sums = product.new_empty(cut.shares, parts, product.shape[0] * product.shape[1], dtype=torch.float32)
    _launch_add(product, sums, term, range(parts), tiles, squared=True)
    return sums


def _launch_add(product: Tensor, out: Tensor, term: LowRankTerm, parts: range, tiles: Tiles, squared: bool) -> None:
    sequences, tokens, columns = product.shape
    _, slots, dim, rank = term.ups.shape
    cut = plan(tiles, tokens, dim, rank, term.ups.dtype)
    _add[(cut.grid_rows, cut.shares * len(parts), sequences)](
        product, out, term.low, term.ups, tokens, columns, dim, slots, rank, *term.low.stride()[:2],
        parts.start, cut.shares, cut.steps, len(parts) * sequences * tokens, sequences * tokens,
        squared=squared, splits=len(term.low), rows=cut.tiles.rows, block=cut.tiles.columns, padded=cut.padded,
        num_warps=cut.tiles.warps, num_stages=cut.tiles.stages,
    )  # fmt: skip


def add_residual(hidden: Tensor, pending: PendingResidual) -> Tensor:
    """Hidden states [batch, tokens, dim] with a pending residual and what adapters add to it, rounded once."""
    term = pending.term
    assert term is not None
    sequences, tokens, dim = hidden.shape
    slots, rank = term.ups.shape[1], term.ups.shape[3]
    cut = plan(RESIDUAL, tokens, dim, rank, term.ups.dtype)
    added = torch.empty_like(hidden)
    gate = pending.gate
    _add_residual[(cut.grid_rows, cut.shares, sequences)](
        hidden, pending.values, hidden if gate is None else gate, added, term.low, term.ups, tokens, dim, slots, rank,
        *term.low.stride()[:2], 0 if gate is None else gate.stride(0), cut.steps,
        gated=gate is not None, splits=len(term.low), rows=cut.tiles.rows, block=cut.tiles.columns, padded=cut.padded,
        num_warps=cut.tiles.warps, num_stages=cut.tiles.stages,
    )  # fmt: skip
    return added


@triton.jit
def _down(
    inputs, scales, downs, out, tokens, columns, slots, width, split_stride, shares, steps,
    quantised: tl.constexpr, rows: tl.constexpr, block: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    share, sequence = tl.program_id(1) % shares, tl.program_id(2)
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    ranks = tl.program_id(1) // shares * padded + tl.arange(0, padded)
    is_row, is_rank = token < tokens, ranks < width
    at = sequence.to(tl.int64) * tokens + token
    down = downs + (sequence % slots).to(tl.int64) * width * columns
    total = tl.zeros((rows, padded), dtype=tl.float32)
    for step in range(steps):
        column = (share * steps + step) * block + tl.arange(0, block)
        is_column = column < columns
        x = tl.load(
            inputs + at[:, None] * columns + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0.0
        )
        total += times_down(x, down, ranks, is_rank, column, is_column, columns)
    if quantised:
        total *= tl.load(scales + at, mask=is_row, other=0.0)[:, None]
    place = out + share * split_stride + at[:, None] * width + ranks[None, :]
    tl.store(place, total, mask=is_row[:, None] & is_rank[None, :])


@triton.jit
def times_down(x, down, ranks, is_rank, column, is_column, columns):
    """Columns of the inputs of some rows, [rows, block], times those of a slot's `down`; in jitted code."""
    inside = is_rank[:, None] & is_column[None, :]
    matrix = tl.load(down + ranks[:, None] * columns + column[None, :], mask=inside, other=0.0)
    return tl.dot(x.to(matrix.dtype), tl.trans(matrix), input_precision="ieee")


@triton.jit
def inner_part(
    lows,
    split_stride,
    row_stride,
    at,
    is_row,
    part,
    rank,
    dtype: tl.constexpr,
    splits: tl.constexpr,
    padded: tl.constexpr,
):
    """The inner part of a block of rows, [rows, padded], for one part of the product; in jitted code."""
    ranks = tl.arange(0, padded)
    place = lows + at[:, None] * row_stride + part * rank + ranks[None, :]
    inside = is_row[:, None] & (ranks < rank)[None, :]
    total = tl.load(place, mask=inside, other=0.0)
    for split in tl.static_range(1, splits):
        total += tl.load(place + split * split_stride, mask=inside, other=0.0)
    return total.to(dtype)


@triton.jit
def tile(states, starts, is_row, column, end):
    """Columns of some rows that start at these places, [rows, block], zeros from column `end` on; in jitted code."""
    return tl.load(
        states + starts[:, None] + column[None, :], mask=is_row[:, None] & (column < end)[None, :], other=0.0
    )


@triton.jit
def plus_times_up(x, low, up, column, is_column, rank, padded: tl.constexpr):
    """Columns of a product, [rows, block], with what a slot's `up` adds to them, float32; in jitted code."""
    ranks = tl.arange(0, padded)
    inside = is_column[:, None] & (ranks < rank)[None, :]
    matrix = tl.load(up + column[:, None] * rank + ranks[None, :], mask=inside, other=0.0)
    return tl.dot(low, tl.trans(matrix), x.to(tl.float32), input_precision="ieee")


@triton.jit
def _add(
    states, out, lows, ups, tokens, columns, dim, slots, rank, split_stride, row_stride,
    first_part, shares, steps, share_stride, part_stride,
    squared: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, block: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    number, share, sequence = tl.program_id(1) // shares, tl.program_id(1) % shares, tl.program_id(2)
    part = first_part + number
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = token < tokens
    at = sequence.to(tl.int64) * tokens + token
    low = inner_part(lows, split_stride, row_stride, at, is_row, part, rank, ups.dtype.element_ty, splits, padded)
    up = ups + (part * slots + sequence % slots).to(tl.int64) * dim * rank
    starts, end = at * columns + part * dim, tl.minimum(dim, (share + 1) * steps * block)
    column = share * steps * block + tl.arange(0, block)
    ahead = tile(states, starts, is_row, column, end)
    total = tl.zeros((rows,), dtype=tl.float32)
    for _ in range(steps):
        x = ahead
        ahead = tile(states, starts, is_row, column + block, end)
        x = plus_times_up(x, low, up, column, column < end, rank, padded)
        if squared:
            total += tl.sum(x * x, axis=1)
        else:
            inside = is_row[:, None] & (column < end)[None, :]
            tl.store(out + starts[:, None] + column[None, :], x.to(out.dtype.element_ty), mask=inside)
        column += block
    if squared:
        tl.store(out + share * share_stride + number * part_stride + at, total, mask=is_row)


@triton.jit
def _add_residual(
    hidden, values, gates, out, lows, ups, tokens, dim, slots, rank, split_stride, row_stride, gate_stride, steps,
    gated: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, block: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    share, sequence = tl.program_id(1), tl.program_id(2)
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = token < tokens
    at = sequence.to(tl.int64) * tokens + token
    low = inner_part(lows, split_stride, row_stride, at, is_row, 0, rank, ups.dtype.element_ty, splits, padded)
    up = ups + (sequence % slots).to(tl.int64) * dim * rank
    starts, end = at * dim, tl.minimum(dim, (share + 1) * steps * block)
    column = share * steps * block + tl.arange(0, block)
    ahead = tile(values, starts, is_row, column, end)
    for _ in range(steps):
        added, is_column = ahead, column < end
        x = tile(hidden, starts, is_row, column, end).to(tl.float32)
        ahead = tile(values, starts, is_row, column + block, end)
        added = plus_times_up(added, low, up, column, is_column, rank, padded)
        if gated:
            gate = tl.load(gates + sequence * gate_stride + column, mask=is_column, other=0.0)
            added *= gate.to(tl.float32)[None, :]
        place = out + starts[:, None] + column[None, :]
        tl.store(place, (x + added).to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
        column += block
