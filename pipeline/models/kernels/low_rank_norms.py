"""Norm and rotary embedding of query and key with what adapters add to them.

A row's norm must be known before its first number can be written, and it needs the change, which several rows share
the work of. So the parts are read twice, first for the sums of their squares, and written once; adding the change in
a pass of its own would write them once more.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels import low_rank_rows
from wanbatch.pipeline.models.kernels.common import LowRankTerm
from wanbatch.pipeline.models.kernels.low_rank import (
    Tiles,
    add_low_rank,
    inner_part,
    plan,
    plus_times_up,
    sums_of_squares,
    tile,
)
from wanbatch.pipeline.models.kernels.whole_rows import row_plan

# The best of those that benchmarks/low_rank.py compared on an H200, of query, key and value together, and of a query.
JOINED = Tiles(32, 128, 1024, 4, 3)
ALONE = Tiles(64, 128, 3072, 8, 2)


def norm_rotate_low_rank(
    states: Tensor,
    weights: tuple[Tensor, ...],
    eps: float,
    rotary: tuple[Tensor, Tensor] | None,
    heads: int,
    term: LowRankTerm,
) -> tuple[Tensor, ...]:
    """As `norms.norm_rotate`, of a projection with what adapters add to it.

    Args:
        states: [batch, tokens, columns], whose first `len(weights)` times dim columns are the parts (query, key). To
            the columns after them (value) what adapters add is added in place; the parts are left as they are.
        weights: One or two, [dim] each.
        eps: Added to the mean square.
        rotary: Cosines and sines, float32 [tokens, ..., head_dim / 2] of interleaved pairs; None for no rotation.
        heads: Of the attention.
        term: Of all columns.

    Returns:
        Each part as [batch, tokens, heads, head_dim].
    """
    batch, tokens, columns = states.shape
    dim, parts, rank = len(weights[0]), len(weights), term.ups.shape[3]
    alone = len(term.ups) == 1
    whole = row_plan(low_rank_rows.ALONE_ROWS if alone else low_rank_rows.JOINED_ROWS, dim, rank, states)
    if whole is not None:
        return low_rank_rows.norm_rotate_rows(whole, states, weights, eps, rotary, heads, term)
    tiles = ALONE if alone else JOINED
    squares = sums_of_squares(states, term, parts, tiles)
    if parts < len(term.ups):
        add_low_rank(states, term, parts, tiles)
    out = states.new_empty(parts, batch, tokens, heads, dim // heads)
    cosines, sines = (squares, squares) if rotary is None else rotary
    cut = plan(tiles, tokens, dim, rank, term.ups.dtype)
    _norm_rotate_low_rank[(cut.grid_rows, cut.shares * parts, batch)](
        states, squares, weights[0], weights[-1], cosines, sines, out, term.low, term.ups, tokens, columns, dim,
        dim // heads // 2, term.ups.shape[1], rank, *term.low.stride()[:2], cut.shares, cut.steps,
        *squares.stride()[:2], batch * tokens * dim, eps,
        rotated=rotary is not None, square_shares=len(squares), splits=len(term.low),
        rows=cut.tiles.rows, block=cut.tiles.columns, padded=cut.padded,
        num_warps=cut.tiles.warps, num_stages=cut.tiles.stages,
    )  # fmt: skip
    return out.unbind(0)


@triton.jit
def _norm_rotate_low_rank(
    states, squares, first_weight, last_weight, cosines, sines, out, lows, ups, tokens, columns, dim,
    half, slots, rank, split_stride, row_stride, shares, steps, square_stride, square_part, part_stride, eps,
    rotated: tl.constexpr, square_shares: tl.constexpr, splits: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
    padded: tl.constexpr,
):  # fmt: skip
    part, share, sequence = tl.program_id(1) // shares, tl.program_id(1) % shares, tl.program_id(2)
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = token < tokens
    at = sequence.to(tl.int64) * tokens + token
    low = inner_part(lows, split_stride, row_stride, at, is_row, part, rank, ups.dtype.element_ty, splits, padded)
    up = ups + (part * slots + sequence % slots).to(tl.int64) * dim * rank
    weight = first_weight if part == 0 else last_weight
    total = tl.zeros((rows,), dtype=tl.float32)
    for number in tl.static_range(square_shares):
        total += tl.load(squares + number * square_stride + part * square_part + at, mask=is_row, other=0.0)
    scale = tl.rsqrt(total / dim + eps)[:, None]
    starts, end = at * columns + part * dim, tl.minimum(dim, (share + 1) * steps * block)
    first = share * steps * block
    ahead = tile(states, starts, is_row, first + tl.arange(0, block), end)
    for _ in range(steps):
        column = first + tl.arange(0, block)
        x, is_column = ahead, column < end
        ahead = tile(states, starts, is_row, column + block, end)
        x = plus_times_up(x, low, up, column, is_column, rank, padded) * scale
        x *= tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
        if rotated:
            pairs = first // 2 + tl.arange(0, block // 2)
            angle = token[:, None] * half + (pairs % half)[None, :]
            turns = is_row[:, None] & (pairs < end // 2)[None, :]
            cosine = tl.load(cosines + angle, mask=turns, other=0.0)
            sine = tl.load(sines + angle, mask=turns, other=0.0)
            a, b = tl.split(tl.reshape(x, (rows, block // 2, 2)))
            x = tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (rows, block))
        place = out + part * part_stride + at[:, None] * dim + column[None, :]
        tl.store(place, x.to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
        first += block
