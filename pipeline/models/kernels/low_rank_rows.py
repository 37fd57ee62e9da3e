"""Norms after a product that adapters of rows change, of whole rows in registers: each tensor is read once.

A norm needs all of a row before its first number can be written, and several rows must share what they read of an
adapter. A program here has `ROWS` whole rows of one sequence. It goes through their columns chunk by chunk, adds what
the adapter adds, and keeps the sums in the product's dtype; then it makes the norm of what it kept and writes it.
`low_rank.add_residual` with a norm after it and the kernels of `low_rank_norms.py` read the product or the sums twice.

`whole_rows.py` says how. The constants below choose between these kernels and those.
"""

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
    ROWS,
    WIDTH,
    RowPlan,
    RowTiles,
    change_of_chunk,
    chunk_columns,
    factor_and_offset,
    inner_parts,
    store_chunk,
    tokens_of_program,
    up_chunk,
    vector_chunk,
)

# None: the kernels of several passes are used, until it is measured on a GPU which are better.
RESIDUAL_ROWS: RowTiles | None = None  # of a residual and the norm after it
JOINED_ROWS: RowTiles | None = None  # of query, key and value together
ALONE_ROWS: RowTiles | None = None  # of a query


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
    place = starts + chunk_columns(chunk)
    kept, products, states, matrices, factors = (), (), (), (), ()
    for step in tl.static_range(chunks + ahead):
        if step < chunks:
            products = products + (tl.load(values + place + step * chunk, mask=mask, other=0.0),)
            states = states + (tl.load(hidden + place + step * chunk, mask=mask, other=0.0),)
            matrices = matrices + (up_chunk(up, step, rank, chunk, widths, warps),)
            if gated:
                factors = factors + (vector_chunk(gates, step, chunk),)
        if step >= ahead:
            x = products[step - ahead].to(tl.float32) + change_of_chunk(low, matrices[step - ahead], chunk, widths, warps)
            if gated:
                x *= factors[step - ahead]
            x = (states[step - ahead].to(tl.float32) + x).to(added.dtype.element_ty)
            tl.store(added + place + (step - ahead) * chunk, x, mask=mask)
            kept = kept + (x,)
    return kept


@triton.jit
def _modulation(scales, shifts, number, modulated: tl.constexpr, shifted: tl.constexpr, chunk: tl.constexpr):
    """What a chunk of the norm is multiplied by and what is added then, [1, groups, 8, WIDTH] each."""
    scale = vector_chunk(scales, number, chunk)
    if modulated:
        scale += 1.0
    shift = tl.zeros_like(scale)
    if shifted:
        shift = vector_chunk(shifts, number, chunk)
    return scale, shift


@triton.jit
def _add_norm_rows(
    hidden, values, gates, scales, shifts, added, out, row_scales, lows, ups, tokens, slots, rank,
    split_stride, row_stride, gate_stride, scale_stride, shift_stride, eps,
    gated: tl.constexpr, shifted: tl.constexpr, centred: tl.constexpr, modulated: tl.constexpr, fp8: tl.constexpr,
    splits: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr, ahead: tl.constexpr,
    warps: tl.constexpr,
):  # fmt: skip
    sequence, token = tl.program_id(1), tokens_of_program()
    dim: tl.constexpr = chunk * chunks
    first, mask = sequence.to(tl.int64) * tokens, token < tokens
    at = first + token
    low = inner_parts(lows, split_stride, row_stride, first, tokens, 0, rank, ups.dtype.element_ty, splits, widths)
    up = ups + (sequence % slots).to(tl.int64) * dim * rank
    gates += sequence * gate_stride
    scales += sequence * scale_stride
    shifts += sequence * shift_stride
    kept = _with_residual(
        hidden, values, gates, added, at * dim, mask, low, up, rank, gated, chunk, chunks, widths, ahead, warps
    )
    factor, offset = factor_and_offset(kept, eps, centred, chunk, chunks)
    last = 1.0
    if fp8:
        peaks = tl.zeros((2, chunk // WIDTH, 8, WIDTH), dtype=tl.float32)
        for number in tl.static_range(chunks):
            scale, shift = _modulation(scales, shifts, number, modulated, shifted, chunk)
            peaks = tl.maximum(peaks, tl.abs((kept[number].to(tl.float32) * factor + offset) * scale + shift))
        peak = tl.maximum(tl.max(tl.max(peaks, axis=3), axis=1)[:, None, :, None], SMALLEST_PEAK)
        tl.store(row_scales + at, peak / LARGEST, mask=mask)
        last = (tl.zeros((1,), dtype=tl.float32) + LARGEST) / peak
        factor, offset = factor * last, offset * last
    vectors = (_modulation(scales, shifts, 0, modulated, shifted, chunk),)
    for number in tl.static_range(chunks):
        if number + 1 < chunks:
            vectors = vectors + (_modulation(scales, shifts, number + 1, modulated, shifted, chunk),)
        scale, shift = vectors[number]
        x = (kept[number].to(tl.float32) * factor + offset) * scale + shift * last
        store_chunk(out, at, dim, number, mask, x, chunk)


@triton.jit
def _with_change(
    states, starts, mask, low, up, rank,
    chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr, ahead: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    """The chunks of a program's rows of a product with what an adapter adds, in the product's dtype."""
    place = starts + chunk_columns(chunk)
    kept, products, matrices = (), (), ()
    for step in tl.static_range(chunks + ahead):
        if step < chunks:
            products = products + (tl.load(states + place + step * chunk, mask=mask, other=0.0),)
            matrices = matrices + (up_chunk(up, step, rank, chunk, widths, warps),)
        if step >= ahead:
            x = products[step - ahead].to(tl.float32) + change_of_chunk(low, matrices[step - ahead], chunk, widths, warps)
            kept = kept + (x.to(states.dtype.element_ty),)
    return kept


@triton.jit
def _turned(x, cosines, sines, token, mask, half, number, chunk: tl.constexpr):
    """A chunk of rows with its pairs turned by the angles of their tokens."""
    pairs = tl.arange(0, chunk // WIDTH)[:, None] * (WIDTH // 2) + tl.arange(0, WIDTH // 2)[None, :]
    angle = token * half + ((number * (chunk // 2) + pairs) % half)[None, :, None, :]
    cosine = tl.load(cosines + angle, mask=mask, other=0.0)
    sine = tl.load(sines + angle, mask=mask, other=0.0)
    a, b = tl.split(tl.reshape(x, (2, chunk // WIDTH, 8, WIDTH // 2, 2)))
    return tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (2, chunk // WIDTH, 8, WIDTH))


@triton.jit
def _norm_rotate_rows(
    states, first_weight, last_weight, cosines, sines, out, lows, ups, tokens, columns, parts, half, slots, rank,
    split_stride, row_stride, part_stride, eps,
    rotated: tl.constexpr, splits: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, widths: tl.constexpr,
    ahead: tl.constexpr, warps: tl.constexpr,
):  # fmt: skip
    part, sequence, token = tl.program_id(1), tl.program_id(2), tokens_of_program()
    dim: tl.constexpr = chunk * chunks
    first, mask = sequence.to(tl.int64) * tokens, token < tokens
    low = inner_parts(lows, split_stride, row_stride, first, tokens, part, rank, ups.dtype.element_ty, splits, widths)
    up = ups + (part * slots + sequence % slots).to(tl.int64) * dim * rank
    starts = (first + token) * columns + part * dim
    kept = _with_change(states, starts, mask, low, up, rank, chunk, chunks, widths, ahead, warps)
    if part >= parts:
        for number in tl.static_range(chunks):
            tl.store(states + starts + chunk_columns(chunk) + number * chunk, kept[number], mask=mask)
    else:
        weight = first_weight if part == 0 else last_weight
        factor, _ = factor_and_offset(kept, eps, False, chunk, chunks)
        out += part * part_stride
        for number in tl.static_range(chunks):
            x = kept[number].to(tl.float32) * factor * vector_chunk(weight, number, chunk)
            if rotated:
                x = _turned(x, cosines, sines, token, mask, half, number, chunk)
            store_chunk(out, first + token, dim, number, mask, x, chunk)
