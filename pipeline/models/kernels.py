"""Triton kernels for what lies between the matrix products of a block: each tensor is read and written once.

Every kernel gives one program a row (a token), so a row's result does not depend on the others. Arithmetic is in
float32, results are rounded once. Where a kernel's output feeds an FP8 layer it is quantised on the way out (one
scale a row, as `fp8.quantise` does), which saves two more passes.

They need a GPU, or Triton's interpreter (`TRITON_INTERPRET=1`) on a CPU, as the tests use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

FORMAT = torch.float8_e4m3fn
LONGEST_TEXT = 256  # keys that `attend_text` holds at once
LARGEST = tl.constexpr(448.0)  # of the format
SMALLEST_PEAK = tl.constexpr(1e-12)  # what a row of zeros is scaled by instead


@dataclass(frozen=True, slots=True)
class Branch:
    """What is still to be added to the hidden states: `values` [batch, tokens, dim], times `gate` [batch, dim]."""

    values: Tensor
    gate: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs of a linear layer: [rows, columns], and their scales, float32 [rows, 1], if they are in FP8."""

    values: Tensor
    scale: Tensor | None = None


def add_norm(
    hidden: Tensor,
    branch: Branch | None,
    scale: Tensor,
    shift: Tensor | None,
    eps: float,
    *,
    centred: bool = True,
    modulated: bool = False,
    fp8: bool = False,
) -> tuple[Tensor, Rows]:
    """Add a branch to the hidden states and normalise them.

    hidden: [batch, tokens, dim]. scale, shift: [batch, dim] or [dim]; any float dtype.
    centred: layer norm; else root mean square. modulated: multiply by 1 + scale instead of scale.
    Returns the new hidden states (the old ones if there is no branch) and what the next layer takes.
    """
    batch, tokens, dim = hidden.shape
    added = hidden if branch is None else torch.empty_like(hidden)
    values, row_scale = _outputs(batch * tokens, dim, hidden, fp8)
    gate = None if branch is None else branch.gate
    _add_norm[(batch * tokens,)](
        hidden,
        hidden if branch is None else branch.values,
        hidden if gate is None else gate,
        scale,
        hidden if shift is None else shift,
        added,
        values,
        values if row_scale is None else row_scale,
        tokens,
        dim,
        0 if gate is None else gate.stride(0),
        _batch_stride(scale),
        0 if shift is None else _batch_stride(shift),
        eps,
        branched=branch is not None,
        gated=gate is not None,
        shifted=shift is not None,
        centred=centred,
        modulated=modulated,
        fp8=fp8,
        block=triton.next_power_of_2(dim),
        num_warps=16 if fp8 and dim > 2048 else _warps(dim),
    )
    return added, Rows(values, row_scale)


def add(hidden: Tensor, branch: Branch) -> Tensor:
    """Hidden states with a branch added, rounded once."""
    added = torch.empty_like(hidden)
    batch, tokens, dim = hidden.shape
    gate = branch.gate
    _add[(batch * tokens,)](
        hidden,
        branch.values,
        hidden if gate is None else gate,
        added,
        tokens,
        dim,
        0 if gate is None else gate.stride(0),
        gated=gate is not None,
        block=triton.next_power_of_2(dim),
        num_warps=_warps(dim),
    )
    return added


def norm_rotate(
    states: Tensor, weights: tuple[Tensor, ...], eps: float, rotary: tuple[Tensor, Tensor] | None, heads: int
) -> tuple[Tensor, ...]:
    """Root mean square norm over all heads and rotary embedding, of one or several parts of a projection.

    states: [batch, tokens, columns], whose first `len(weights)` times dim columns are the parts (query, key).
    weights: [dim] each. rotary: cosines and sines, float32 [tokens, ..., head_dim / 2] of interleaved pairs.
    Returns each part as [batch, tokens, heads, head_dim].
    """
    batch, tokens, columns = states.shape
    dim, parts = len(weights[0]), len(weights)
    out = states.new_empty(parts, batch, tokens, heads, dim // heads)
    cosines, sines = (weights[0], weights[0]) if rotary is None else rotary
    _norm_rotate[(batch * tokens, parts)](
        states,
        weights[0],
        weights[-1],
        cosines,
        sines,
        out,
        tokens,
        dim,
        columns,
        dim // heads // 2,
        batch * tokens * dim,
        eps,
        rotated=rotary is not None,
        block=triton.next_power_of_2(dim),
        num_warps=_warps(dim),
    )
    return out.unbind(0)


def attend_text(
    states: Tensor, weight: Tensor, eps: float, keys: Tensor, values: Tensor, bias: Tensor, heads: int
) -> Tensor:
    """Root mean square norm over all heads of projected queries, and their attention to a text.

    states: [batch, tokens, dim], queries before their norm. weight: [dim], of the norm.
    keys, values: [batch, heads, length, head_dim]; at most `LONGEST_TEXT` keys. bias: [batch, 1, 1, length].
    Returns [batch, tokens, dim].
    """
    batch, tokens, dim = states.shape
    length, head_dim = keys.shape[2:]
    scale = states.new_empty(batch * tokens, dtype=torch.float32)
    block, warps = triton.next_power_of_2(dim), _warps(dim)
    _row_scale[(batch * tokens,)](states, scale, dim, eps, block=block, num_warps=warps)
    out = torch.empty_like(states)
    places = max(16, triton.next_power_of_2(length))
    rows = 128 if places <= 128 else 64
    _attend_text[(triton.cdiv(tokens, rows), heads, batch)](
        states,
        scale,
        weight,
        keys,
        values,
        bias,
        out,
        tokens,
        dim,
        length,
        head_dim,
        *keys.stride()[:3],
        *values.stride()[:3],
        bias.stride(0),
        head_dim**-0.5,
        rows=rows,
        places=places,
        wide=max(16, triton.next_power_of_2(head_dim)),
        num_warps=8,
    )
    return out


def gelu(states: Tensor) -> Rows:
    """GELU (tanh form) of [rows, columns], in FP8."""
    values, scale = _outputs(states.shape[0], states.shape[1], states, fp8=True)
    _activate(states, values, scale, curved=True)
    return Rows(values, scale)


def quantise(states: Tensor) -> Rows:
    """[rows, columns] in FP8."""
    values, scale = _outputs(states.shape[0], states.shape[1], states, fp8=True)
    _activate(states, values, scale, curved=False)
    return Rows(values, scale)


def gated_gelu(states: Tensor) -> Tensor:
    """[rows, 2 * columns] -> [rows, columns]: GELU (tanh form) of the first half times the second."""
    rows, columns = states.shape[0], states.shape[1] // 2
    out = states.new_empty(rows, columns)
    block = min(1024, triton.next_power_of_2(columns))
    _gated_gelu[(rows, triton.cdiv(columns, block))](states, out, columns, block=block, num_warps=4)
    return out


def _outputs(rows: int, columns: int, like: Tensor, fp8: bool) -> tuple[Tensor, Tensor | None]:
    values = like.new_empty(rows, columns, dtype=FORMAT if fp8 else like.dtype)
    return values, like.new_empty(rows, 1, dtype=torch.float32) if fp8 else None


def _batch_stride(vector: Tensor) -> int:
    return vector.stride(0) if vector.ndim == 2 else 0


def _warps(columns: int) -> int:
    """For a program that holds a row; measured on an H200 with rows of 3072 and 14336."""
    return 4 if columns <= 4096 else 8


def _activate(states: Tensor, values: Tensor, scale: Tensor | None, curved: bool) -> None:
    rows, columns = states.shape
    _curve_quantise[(rows,)](
        states,
        values,
        scale,
        columns,
        curved=curved,
        block=triton.next_power_of_2(columns),
        num_warps=_warps(columns),
    )


@triton.jit
def _store_row(out, scales, row, columns, offsets, mask, values, fp8: tl.constexpr):
    """Write a row, in FP8 with its scale or as it is."""
    if fp8:
        peak = tl.maximum(tl.max(tl.abs(tl.where(mask, values, 0.0))), SMALLEST_PEAK)
        tl.store(scales + row, peak / LARGEST)
        values = values * (LARGEST / peak)
    tl.store(out + row * columns + offsets, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _gelu(x):
    """x * Phi(x) in its tanh form; x * (1 + tanh(u)) / 2 = x * sigmoid(2 u)."""
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _with_branch(hidden, values, gates, row, sample, dim, gate_stride, offsets, mask, gated: tl.constexpr):
    """A row of hidden states with the branch added, float32, rounded to the hidden states' dtype."""
    x = tl.load(hidden + row * dim + offsets, mask=mask, other=0.0).to(tl.float32)
    added = tl.load(values + row * dim + offsets, mask=mask, other=0.0).to(tl.float32)
    if gated:
        added *= tl.load(gates + sample * gate_stride + offsets, mask=mask, other=0.0).to(tl.float32)
    return (x + added).to(hidden.dtype.element_ty)


@triton.jit
def _add(hidden, values, gates, out, tokens, dim, gate_stride, gated: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    mask = offsets < dim
    x = _with_branch(hidden, values, gates, row, row // tokens, dim, gate_stride, offsets, mask, gated)
    tl.store(out + row * dim + offsets, x, mask=mask)


@triton.jit
def _add_norm(
    hidden,
    branch,
    gates,
    scales,
    shifts,
    added,
    out,
    row_scales,
    tokens,
    dim,
    gate_stride,
    scale_stride,
    shift_stride,
    eps,
    branched: tl.constexpr,
    gated: tl.constexpr,
    shifted: tl.constexpr,
    centred: tl.constexpr,
    modulated: tl.constexpr,
    fp8: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    sample = row // tokens
    offsets = tl.arange(0, block)
    mask = offsets < dim
    if branched:
        x = _with_branch(hidden, branch, gates, row, sample, dim, gate_stride, offsets, mask, gated)
        tl.store(added + row * dim + offsets, x, mask=mask)
        x = x.to(tl.float32)
    else:
        x = tl.load(hidden + row * dim + offsets, mask=mask, other=0.0).to(tl.float32)
    if centred:
        x = tl.where(mask, x - tl.sum(x) / dim, 0.0)
    x = x * tl.rsqrt(tl.sum(x * x) / dim + eps)
    scale = tl.load(scales + sample * scale_stride + offsets, mask=mask, other=0.0).to(tl.float32)
    if modulated:
        scale += 1.0
    x = x * scale
    if shifted:
        x += tl.load(shifts + sample * shift_stride + offsets, mask=mask, other=0.0).to(tl.float32)
    _store_row(out, row_scales, row, dim, offsets, mask, x, fp8)


@triton.jit
def _norm_rotate(
    states,
    first_weight,
    last_weight,
    cosines,
    sines,
    out,
    tokens,
    dim,
    columns,
    half,
    part_stride,
    eps,
    rotated: tl.constexpr,
    block: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offsets = tl.arange(0, block)
    mask = offsets < dim
    x = tl.load(states + row * columns + part * dim + offsets, mask=mask, other=0.0).to(tl.float32)
    weight = first_weight if part == 0 else last_weight
    x = x * tl.rsqrt(tl.sum(x * x) / dim + eps)
    x = x * tl.load(weight + offsets, mask=mask, other=0.0).to(tl.float32)
    if rotated:
        pairs = tl.arange(0, block // 2)
        places = (row % tokens) * half + pairs % half
        cosine = tl.load(cosines + places, mask=pairs < dim // 2, other=0.0)
        sine = tl.load(sines + places, mask=pairs < dim // 2, other=0.0)
        a, b = tl.split(tl.reshape(x, (block // 2, 2)))
        x = tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (block,))
    tl.store(out + part * part_stride + row * dim + offsets, x.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _row_scale(states, scales, dim, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    x = tl.load(states + row * dim + offsets, mask=offsets < dim, other=0.0).to(tl.float32)
    tl.store(scales + row, tl.rsqrt(tl.sum(x * x) / dim + eps))


@triton.jit
def _attend_text(
    states,
    row_scales,
    weight,
    keys,
    values,
    biases,
    out,
    tokens,
    dim,
    length,
    head_dim,
    key_batch,
    key_head,
    key_place,
    value_batch,
    value_head,
    value_place,
    bias_batch,
    softmax_scale,
    rows: tl.constexpr,
    places: tl.constexpr,
    wide: tl.constexpr,
):
    head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    place, column = tl.arange(0, places), tl.arange(0, wide)
    is_row, is_place, is_column = row < tokens, place < length, column < head_dim

    offsets = (sample * tokens + row)[:, None] * dim + (head * head_dim + column)[None, :]
    inside = is_row[:, None] & is_column[None, :]
    query = tl.load(states + offsets, mask=inside, other=0.0).to(tl.float32)
    query *= tl.load(row_scales + sample * tokens + row, mask=is_row, other=0.0)[:, None]
    query *= tl.load(weight + head * head_dim + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    query = query.to(keys.dtype.element_ty)

    of_text = is_place[:, None] & is_column[None, :]
    base = keys + sample * key_batch + head * key_head
    key = tl.load(base + place[:, None] * key_place + column[None, :], mask=of_text, other=0.0)
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * softmax_scale
    bias = tl.load(biases + sample * bias_batch + place, mask=is_place, other=-float("inf")).to(tl.float32)
    score += bias[None, :]
    score = tl.exp(score - tl.max(score, axis=1)[:, None])
    total = tl.sum(score, axis=1)

    base = values + sample * value_batch + head * value_head
    value = tl.load(base + place[:, None] * value_place + column[None, :], mask=of_text, other=0.0)
    mixed = tl.dot(score.to(value.dtype), value, input_precision="ieee") / total[:, None]
    tl.store(out + offsets, mixed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _curve_quantise(states, out, row_scales, columns, curved: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    mask = offsets < columns
    x = tl.load(states + row * columns + offsets, mask=mask, other=0.0).to(tl.float32)
    if curved:
        x = _gelu(x)
    _store_row(out, row_scales, row, columns, offsets, mask, x, True)


@triton.jit
def _gated_gelu(states, out, columns, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * block + tl.arange(0, block)
    mask = offsets < columns
    gate = tl.load(states + row * 2 * columns + offsets, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(states + row * 2 * columns + columns + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * columns + offsets, (_gelu(gate) * value).to(out.dtype.element_ty), mask=mask)
