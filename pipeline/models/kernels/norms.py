"""Norms of hidden states, with what is added to them before and the rotary embedding after."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels import low_rank_rows
from wanbatch.pipeline.models.kernels.common import (
    Activation,
    PendingResidual,
    batch_stride,
    new_activation,
    store_row,
    warps_for,
)
from wanbatch.pipeline.models.kernels.low_rank import add_residual
from wanbatch.pipeline.models.kernels.whole_rows import row_plan


def add_norm(
    hidden: Tensor,
    pending: PendingResidual | None,
    scale: Tensor,
    shift: Tensor | None,
    eps: float,
    *,
    centred: bool = True,
    modulated: bool = False,
    fp8: bool = False,
) -> tuple[Tensor, Activation]:
    """Add a pending residual to the hidden states and normalise them.

    Args:
        hidden: [batch, tokens, dim].
        pending: What is added; None for nothing.
        scale: [batch, dim] or [dim], any float dtype.
        shift: As `scale`; None for no shift.
        eps: Added to the mean square.
        centred: Layer norm; else root mean square norm.
        modulated: Multiply by 1 + scale instead of scale.
        fp8: Quantise the result.

    Returns:
        The new hidden states (the old ones if nothing was pending) and what the next layer takes.
    """
    batch, tokens, dim = hidden.shape
    if pending is not None and pending.term is not None:
        plan = row_plan(low_rank_rows.RESIDUAL_ROWS, dim, pending.term.ups.shape[3], hidden)
        if plan is not None:
            how = {"centred": centred, "modulated": modulated, "fp8": fp8}
            return low_rank_rows.add_norm_rows(plan, hidden, pending, scale, shift, eps, **how)
        hidden, pending = add_residual(hidden, pending), None
    added = hidden if pending is None else torch.empty_like(hidden)
    normed = new_activation(batch * tokens, dim, hidden, fp8)
    residual, gate, gate_stride = _addresses(hidden, pending)
    _add_norm[(batch * tokens,)](
        hidden, residual, gate, scale, hidden if shift is None else shift, added,
        normed.values, normed.values if normed.scale is None else normed.scale,
        tokens, dim, gate_stride, batch_stride(scale), 0 if shift is None else batch_stride(shift), eps,
        has_pending=pending is not None, gated=gate is not hidden, shifted=shift is not None,
        centred=centred, modulated=modulated, fp8=fp8,
        block=triton.next_power_of_2(dim), num_warps=16 if fp8 and dim > 2048 else warps_for(dim),
    )  # fmt: skip
    return added, normed


def add(hidden: Tensor, pending: PendingResidual) -> Tensor:
    """Hidden states with a pending residual added, rounded once."""
    if pending.term is not None:
        return add_residual(hidden, pending)
    added = torch.empty_like(hidden)
    batch, tokens, dim = hidden.shape
    residual, gate, gate_stride = _addresses(hidden, pending)
    _add[(batch * tokens,)](
        hidden,
        residual,
        gate,
        added,
        tokens,
        dim,
        gate_stride,
        gated=gate is not hidden,
        block=triton.next_power_of_2(dim),
        num_warps=warps_for(dim),
    )
    return added


def _addresses(hidden: Tensor, pending: PendingResidual | None) -> tuple[Tensor, Tensor, int]:
    """A kernel's residual and gate, for which the hidden states stand if there is none, and the gate's stride."""
    if pending is None:
        return hidden, hidden, 0
    gate = pending.gate
    return (pending.values, hidden, 0) if gate is None else (pending.values, gate, gate.stride(0))


def norm_rotate(
    states: Tensor, weights: tuple[Tensor, ...], eps: float, rotary: tuple[Tensor, Tensor] | None, heads: int
) -> tuple[Tensor, ...]:
    """Root mean square norm over all heads and rotary embedding, of one or several parts of a projection.

    Args:
        states: [batch, tokens, columns], whose first `len(weights)` times dim columns are the parts (query, key).
        weights: One or two, [dim] each.
        eps: Added to the mean square.
        rotary: Cosines and sines, float32 [tokens, ..., head_dim / 2] of interleaved pairs; None for no rotation.
        heads: Of the attention.

    Returns:
        Each part as [batch, tokens, heads, head_dim].
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
        num_warps=warps_for(dim),
    )
    return out.unbind(0)


@triton.jit
def _with_pending(hidden, values, gates, row, sample, dim, gate_stride, offsets, mask, gated: tl.constexpr):
    """A row of hidden states with what is pending added, in float32, rounded to the hidden states' dtype."""
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
    x = _with_pending(hidden, values, gates, row, row // tokens, dim, gate_stride, offsets, mask, gated)
    tl.store(out + row * dim + offsets, x, mask=mask)


@triton.jit
def _add_norm(
    hidden,
    pending,
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
    has_pending: tl.constexpr,
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
    if has_pending:
        x = _with_pending(hidden, pending, gates, row, sample, dim, gate_stride, offsets, mask, gated)
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
    store_row(out, row_scales, row, dim, offsets, mask, x, fp8)


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
        angle = (row % tokens) * half + pairs % half
        cosine = tl.load(cosines + angle, mask=pairs < dim // 2, other=0.0)
        sine = tl.load(sines + angle, mask=pairs < dim // 2, other=0.0)
        a, b = tl.split(tl.reshape(x, (block // 2, 2)))
        x = tl.reshape(tl.join(a * cosine - b * sine, a * sine + b * cosine), (block,))
    tl.store(out + part * part_stride + row * dim + offsets, x.to(out.dtype.element_ty), mask=mask)
