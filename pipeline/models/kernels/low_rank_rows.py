"""Norms after a product that adapters of rows change, of whole rows in registers: each tensor is read once.

A norm needs all of a row before its first number can be written, and several rows must share what they read of an
adapter. A program here has `ROWS` whole rows of one sequence. It goes through their columns chunk by chunk, adds what
the adapter adds, and keeps the sums in the product's dtype; then it makes the norm of what it kept and writes it.
`low_rank.add_residual` with a norm after it and the kernels of `low_rank_norms.py` read the product or the sums
twice. `whole_rows.py` says how. The constants below choose between these kernels and those.
"""

# ruff: noqa: RUF005 - Triton's compiler does not know how to unpack a tuple within another.
# mypy: disable-error-code="assignment, var-annotated"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.common import (
    LARGEST,
    SMALLEST_PEAK,
    Activation,
    LowRankTerm,
    PendingResidual,
    batch_stride,
    new_activation,
)
from wanbatch.pipeline.models.kernels.whole_rows import (
    PIECE,
    ROWS,
    WIDTH,
    RowPlan,
    RowTiles,
    change_of_chunk,
    factor_and_offset,
    inner_parts,
    load_chunk,
    load_vector,
    over_columns,
    pieces_of_program,
    store_chunk,
    up_chunk,
)

# The best of those that benchmarks/low_rank.py compared on an H200; None: the kernels of several passes are used.
RESIDUAL_ROWS: RowTiles | None = RowTiles(256, 8, 2)  # of a residual and the norm after it
JOINED_ROWS: RowTiles | None = RowTiles(512, 8, 1)  # of query, key and value together
ALONE_ROWS: RowTiles | None = RowTiles(1024, 16, 0)  # of a query


def add_norm_rows(
    plan: RowPlan,
    hidden: Tensor,
    pending: PendingResidual,
    scale: Tensor,
    shift: Tensor | None,
    eps: float,
    *,
    centred: bool,
    modulated: bool,
    fp8: bool,
) -> tuple[Tensor, Activation]:
    """As `norms.add_norm`, of a pending residual with what adapters add to it."""
    term, gate = pending.term, pending.gate
    assert term is not None
    sequences, tokens, dim = hidden.shape
    added, normed = torch.empty_like(hidden), new_activation(sequences * tokens, dim, hidden, fp8)
    _add_norm_rows[(triton.cdiv(tokens, ROWS.value), sequences)](
        hidden, pending.values, hidden if gate is None else gate, scale, hidden if shift is None else shift, added,
        normed.values, normed.values if normed.scale is None else normed.scale, term.low, term.ups,
        tokens, term.ups.shape[1], term.ups.shape[3], *term.low.stride()[:2], 0 if gate is None else gate.stride(0),
        batch_stride(scale), 0 if shift is None else batch_stride(shift), eps,
        gated=gate is not None, shifted=shift is not None, centred=centred, modulated=modulated, fp8=fp8,
        splits=len(term.low), **plan.constants,
    )  # fmt: skip
    return added, normed


def norm_rotate_rows(
    plan: RowPlan,
    states: Tensor,
    weights: tuple[Tensor, ...],
    eps: float,
    rotary: tuple[Tensor, Tensor] | None,
    heads: int,
    term: LowRankTerm,
) -> tuple[Tensor, ...]:
    """As `low_rank_norms.norm_rotate_low_rank`; the sums are rounded to the dtype of `states` before their norm."""
    batch, tokens, columns = states.shape
    dim, parts = len(weights[0]), len(weights)
    out = states.new_empty(parts, batch, tokens, heads, dim // heads)
    cosines, sines = (weights[0], weights[0]) if rotary is None else rotary
    _norm_rotate_rows[(triton.cdiv(tokens, ROWS.value), len(term.ups), batch)](
        states, weights[0], weights[-1], cosines, sines, out, term.low, term.ups, tokens, columns, parts,
        dim // heads // 2, term.ups.shape[1], term.ups.shape[3], *term.low.stride()[:2], batch * tokens * dim, eps,
        rotated=rotary is not None, splits=len(term.low), **plan.constants,
    )  # fmt: skip
    return out.unbind(0)


@triton.jit
def _with_residual(
    hidden, values, gates, added, starts, mask, low, up, rank,
    gated: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr, ahead: tl.constexpr,
    warps: tl.constexpr,
):  # fmt: skip
    """The chunks of a program's rows of the new hidden states, which are written to `added`."""
    kept, products, states, matrices, factors = (), (), (), (), ()
    for step in tl.static_range(chunks + ahead):
        if step < chunks:
            products = products + (load_chunk(values, starts, mask, step, chunk),)
            states = states + (load_chunk(hidden, starts, mask, step, chunk),)
            matrices = matrices + (up_chunk(up, step, rank, chunk, widths, warps),)
            if gated:
                factors = factors + (load_vector(gates, step, chunk),)
        if step >= ahead:
            change = change_of_chunk(low, matrices[step - ahead], chunk, widths, warps)
            x = products[step - ahead].to(tl.float32) + change
            if gated:
                x *= factors[step - ahead]
            x = (states[step - ahead].to(tl.float32) + x).to(added.dtype.element_ty)
            store_chunk(added, starts, mask, step - ahead, x, chunk)
            kept = kept + (x,)
    return kept


@triton.jit
def _modulation(scales, shifts, number, modulated: tl.constexpr, shifted: tl.constexpr, chunk: tl.constexpr):
    """What a chunk of the norm is multiplied by and what is added then, [1, groups, 8, 4, PIECE] each."""
    scale = load_vector(scales, number, chunk)
    if modulated:
        scale += 1.0
    shift = tl.zeros_like(scale)
    if shifted:
        shift = load_vector(shifts, number, chunk)
    return scale, shift


@triton.jit
def _add_norm_rows(
    hidden, values, gates, scales, shifts, added, out, row_scales, lows, ups, tokens, slots, rank,
    split_stride, row_stride, gate_stride, scale_stride, shift_stride, eps,
    gated: tl.constexpr, shifted: tl.constexpr, centred: tl.constexpr, modulated: tl.constexpr, fp8: tl.constexpr,
    splits: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr, ahead: tl.constexpr,
    warps: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(1)
    dim: tl.constexpr = chunk * chunks
    first = sequence.to(tl.int64) * tokens
    token, column = pieces_of_program(chunk // WIDTH)
    mask, starts = token < tokens, (first + token) * dim + column
    low = inner_parts(lows, split_stride, row_stride, first, tokens, 0, rank, ups.dtype.element_ty, splits, widths)
    up = ups + (sequence % slots).to(tl.int64) * dim * rank
    gates += sequence * gate_stride
    scales += sequence * scale_stride
    shifts += sequence * shift_stride
    kept = _with_residual(
        hidden, values, gates, added, starts, mask, low, up, rank, gated, chunk, chunks, widths, ahead, warps
    )
    factor, offset = factor_and_offset(kept, eps, centred, chunk, chunks)
    last = 1.0
    if fp8:
        peaks = tl.zeros((2, chunk // WIDTH, 8, 4, PIECE), dtype=tl.float32)
        for number in tl.static_range(chunks):
            scale, shift = _modulation(scales, shifts, number, modulated, shifted, chunk)
            peaks = tl.maximum(peaks, tl.abs((kept[number].to(tl.float32) * factor + offset) * scale + shift))
        peak = tl.maximum(over_columns(peaks, True), SMALLEST_PEAK)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        tl.store(row_scales + first + row, tl.reshape(peak, (ROWS,)) / LARGEST, mask=row < tokens)
        last = (tl.zeros((1,), dtype=tl.float32) + LARGEST) / peak
        factor, offset = factor * last, offset * last
    vectors = (_modulation(scales, shifts, 0, modulated, shifted, chunk),)
    for number in tl.static_range(chunks):
        if number + 1 < chunks:
            vectors = vectors + (_modulation(scales, shifts, number + 1, modulated, shifted, chunk),)
        scale, shift = vectors[number]
        x = (kept[number].to(tl.float32) * factor + offset) * scale + shift * last
        store_chunk(out, starts, mask, number, x, chunk)


@triton.jit
def _with_change(
    states, starts, mask, low, up, rank,
    chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr, ahead: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    """The chunks of a program's rows of a product with what an adapter adds, in the product's dtype."""
    kept, products, matrices = (), (), ()
    for step in tl.static_range(chunks + ahead):
        if step < chunks:
            products = products + (load_chunk(states, starts, mask, step, chunk),)
            matrices = matrices + (up_chunk(up, step, rank, chunk, widths, warps),)
        if step >= ahead:
            change = change_of_chunk(low, matrices[step - ahead], chunk, widths, warps)
            kept = kept + ((products[step - ahead].to(tl.float32) + change).to(states.dtype.element_ty),)
    return kept


@triton.jit
def _angles(table, token, column, mask, half, number, chunk: tl.constexpr):
    """Cosines or sines for a chunk's pairs, [2, groups, 8, 4, PIECE / 2]."""
    pairs = ((number * chunk + column) // 2)[:, None] + tl.arange(0, PIECE // 2)[None, :]
    x = tl.load(table + token[:, None] * half + pairs % half, mask=mask[:, None], other=0.0)
    return tl.reshape(x, (2, chunk // WIDTH, 8, 4, PIECE // 2))


@triton.jit
def _store_rotated(
    kept, factor, weight, cosines, sines, out, token, column, places, mask, half,
    rotated: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr,
):  # fmt: skip
    """Write the norm of what was kept, turned. A chunk's tables are loaded before the chunk before it is written."""
    weights, cosine, sine = (), (), ()
    for step in tl.static_range(chunks + 1):
        if step < chunks:
            weights = weights + (load_vector(weight, step, chunk),)
            if rotated:
                cosine = cosine + (_angles(cosines, token, column, mask, half, step, chunk),)
                sine = sine + (_angles(sines, token, column, mask, half, step, chunk),)
        if step > 0:
            x = kept[step - 1].to(tl.float32) * factor * weights[step - 1]
            if rotated:
                a, b = tl.split(tl.reshape(x, (2, chunk // WIDTH, 8, 4, PIECE // 2, 2)))
                c, d = cosine[step - 1], sine[step - 1]
                x = tl.join(a * c - b * d, a * d + b * c)
            store_chunk(out, places, mask, step - 1, x, chunk)


@triton.jit
def _norm_rotate_rows(
    states, first_weight, last_weight, cosines, sines, out, lows, ups, tokens, columns, parts, half, slots, rank,
    split_stride, row_stride, part_stride, eps,
    rotated: tl.constexpr, splits: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr,
    ahead: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    part, sequence = tl.program_id(1), tl.program_id(2)
    dim: tl.constexpr = chunk * chunks
    first = sequence.to(tl.int64) * tokens
    token, column = pieces_of_program(chunk // WIDTH)
    mask, starts = token < tokens, (first + token) * columns + part * dim + column
    low = inner_parts(lows, split_stride, row_stride, first, tokens, part, rank, ups.dtype.element_ty, splits, widths)
    up = ups + (part * slots + sequence % slots).to(tl.int64) * dim * rank
    kept = _with_change(states, starts, mask, low, up, rank, chunk, chunks, widths, ahead, warps)
    if part >= parts:
        for number in tl.static_range(chunks):
            store_chunk(states, starts, mask, number, kept[number], chunk)
    else:
        weight = first_weight if part == 0 else last_weight
        factor, _ = factor_and_offset(kept, eps, False, chunk, chunks)
        places = part * part_stride + (first + token) * dim + column
        _store_rotated(
            kept, factor, weight, cosines, sines, out, token, column, places, mask, half, rotated, chunk, chunks
        )
