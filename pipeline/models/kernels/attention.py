"""Attention of a frame's tokens to a text, which is short enough to be held at once."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.common import warps_for

LONGEST_TEXT = 256  # keys that `attend_text` holds at once
LONGEST_ON_HOPPER = 64  # keys beyond which cuDNN's attention of Hopper and newer is faster, with a norm before it
HOPPER = (9, 0)


def holds_text(keys: Tensor) -> bool:
    """Whether `attend_text` is what attends to keys [batch, heads, length, head_dim] fastest where they are."""
    return keys.shape[2] <= _longest_text(keys.device)


@cache
def _longest_text(device: torch.device) -> int:
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= HOPPER
    return LONGEST_ON_HOPPER if hopper else LONGEST_TEXT


def attend_text(
    states: Tensor, weight: Tensor, eps: float, keys: Tensor, values: Tensor, bias: Tensor, heads: int
) -> Tensor:
    """Root mean square norm over all heads of projected queries, and their attention to a text.

    Args:
        states: [batch, tokens, dim], queries before their norm.
        weight: [dim], of the norm.
        eps: Added to the mean square.
        keys: [batch, heads, length, head_dim]; at most `LONGEST_TEXT` of them.
        values: As `keys`.
        bias: [batch, 1, 1, length], added to the scores.
        heads: Of the attention.

    Returns:
        [batch, tokens, dim].
    """
    batch, tokens, dim = states.shape
    length, head_dim = keys.shape[2:]
    scale = states.new_empty(batch * tokens, dtype=torch.float32)
    block = triton.next_power_of_2(dim)
    _row_scale[(batch * tokens,)](states, scale, dim, eps, block=block, num_warps=warps_for(dim))
    out = torch.empty_like(states)
    padded = max(16, triton.next_power_of_2(length))
    rows, warps = (64, 4) if padded <= 64 else (128, 8) if padded <= 128 else (64, 8)
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
        padded=padded,
        wide=max(16, triton.next_power_of_2(head_dim)),
        num_warps=warps,
    )
    return out


@triton.jit
def _row_scale(states, scales, dim, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    x = tl.load(states + row * dim + offsets, mask=offsets < dim, other=0.0).to(tl.float32)
    tl.store(scales + row, tl.rsqrt(tl.sum(x * x) / dim + eps))


@triton.jit
def _normed_query(states, row_scales, weight, rows, columns, offsets, inside, is_row, is_column):
    """Queries of a block of tokens after their norm, float32."""
    query = tl.load(states + offsets, mask=inside, other=0.0).to(tl.float32)
    query *= tl.load(row_scales + rows, mask=is_row, other=0.0)[:, None]
    return query * tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]


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
    key_position,
    value_batch,
    value_head,
    value_position,
    bias_batch,
    softmax_scale,
    rows: tl.constexpr,
    padded: tl.constexpr,
    wide: tl.constexpr,
):
    head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    position, column = tl.arange(0, padded), tl.arange(0, wide)
    is_row, is_position, is_column = row < tokens, position < length, column < head_dim

    rows_at, columns = sample * tokens + row, head * head_dim + column
    offsets = rows_at[:, None] * dim + columns[None, :]
    inside = is_row[:, None] & is_column[None, :]
    query = _normed_query(states, row_scales, weight, rows_at, columns, offsets, inside, is_row, is_column)
    query = query.to(keys.dtype.element_ty)

    of_text = is_position[:, None] & is_column[None, :]
    base = keys + sample * key_batch + head * key_head
    key = tl.load(base + position[:, None] * key_position + column[None, :], mask=of_text, other=0.0)
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * softmax_scale
    bias = tl.load(biases + sample * bias_batch + position, mask=is_position, other=-float("inf")).to(tl.float32)
    score += bias[None, :]
    score = tl.exp(score - tl.max(score, axis=1)[:, None])
    total = tl.sum(score, axis=1)

    base = values + sample * value_batch + head * value_head
    value = tl.load(base + position[:, None] * value_position + column[None, :], mask=of_text, other=0.0)
    mixed = tl.dot(score.to(value.dtype), value, input_precision="ieee") / total[:, None]
    tl.store(out + offsets, mixed.to(out.dtype.element_ty), mask=inside)
