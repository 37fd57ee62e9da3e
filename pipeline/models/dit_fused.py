"""Blocks of the one-frame transformer on a GPU: matrix products, attention, and `kernels` for all in between.

The same arithmetic as `FrameBlock.forward`, with fewer roundings. Nothing is compiled, so a size class costs nothing
before it is first used. What a block's last product adds to the hidden states is added by the next block's first
kernel: `through` carries it from block to block. Needs Triton (`compiler.kernels_usable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models import kernels
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.fp8 import Float8Linear
from wanbatch.pipeline.models.int8 import Int8Linear
from wanbatch.pipeline.models.kernels import Activation, PendingResidual
from wanbatch.pipeline.models.text_context import CrossAttentionContext


def fits(block: FrameBlock) -> bool:
    """Whether a block is of the form that is written here: a norm before the text, query, key and value fused."""
    return isinstance(block.norm2, nn.LayerNorm) and (block.qkv is not None or block.qkv_weight is not None)


def through(
    blocks: Sequence[FrameBlock],
    indices: range,
    hidden: Tensor,
    modulation: Tensor,
    rotary: tuple[Tensor, Tensor],
    context: CrossAttentionContext,
) -> Tensor:
    """Hidden states after some of the blocks.

    Args:
        blocks: All blocks of the model.
        indices: Which of them to run.
        hidden: [batch, tokens, dim].
        modulation: [batch, 6, dim], as of `FrameBlock.forward`.
        rotary: As of `FrameBlock.forward`.
        context: Of the batch's prompts.

    Returns:
        [batch, tokens, dim].
    """
    if not indices:
        return hidden
    hidden, pending = hidden.contiguous(), None
    tables = torch.cat([blocks[index].scale_shift_table for index in indices])
    modulated = tables[:, None] + modulation.float()
    for index, vectors in zip(indices, modulated, strict=True):
        keys, values = context.keys[index], context.values[index]
        hidden, pending = _block(blocks[index], hidden, pending, vectors, rotary, keys, values, context.bias)
    assert pending is not None
    return kernels.add(hidden, pending)


def normed_output(hidden: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """The layer norm before the last projection of hidden [batch, tokens, dim]; scale and shift: [batch, dim]."""
    hidden, normed = kernels.add_norm(hidden, None, scale, shift, eps, modulated=True)
    return normed.values.view_as(hidden)


def _block(
    block: FrameBlock,
    hidden: Tensor,
    pending: PendingResidual | None,
    vectors: Tensor,
    rotary: tuple[Tensor, Tensor],
    text_keys: Tensor,
    text_values: Tensor,
    text_bias: Tensor,
) -> tuple[Tensor, PendingResidual]:
    """Hidden states without what the block's last product adds, and that. vectors: float32 [batch, 6, dim]."""
    fp8 = isinstance(block.qkv, Float8Linear)
    own, text, eps = block.attn1, block.attn2, block.norm1.eps
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = vectors.unbind(1)
    shape = hidden.shape

    hidden, normed = kernels.add_norm(hidden, pending, scale, shift, eps, modulated=True, fp8=fp8)
    if block.qkv is None:
        assert block.qkv_weight is not None
        projected = F.linear(normed.values, block.qkv_weight, block.qkv_bias).view(*shape[:2], -1)
    else:
        projected = _product(block.qkv, normed, hidden.dtype).view(*shape[:2], -1)
    weights = own.norm_q.weight, own.norm_k.weight
    query, key = kernels.norm_rotate(projected, weights, own.norm_q.eps, rotary, block.heads)
    value = projected[..., -shape[2] :].unflatten(2, (block.heads, -1))
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    pending = PendingResidual(_output(own, attended.transpose(1, 2).flatten(2), fp8).view(shape), gate)

    norm = block.norm2
    hidden, normed = kernels.add_norm(hidden, pending, norm.weight, norm.bias, norm.eps, fp8=fp8)
    projected = _product(text.to_q, normed, hidden.dtype).view(shape)
    attended = _attend_text(text, projected, text_keys, text_values, text_bias)
    pending = PendingResidual(_output(text, attended, fp8).view(shape))

    hidden, normed = kernels.add_norm(hidden, pending, ffn_scale, ffn_shift, eps, modulated=True, fp8=fp8)
    first, second = block.ffn.net[0].proj, block.ffn.net[2]
    if fp8:
        inner = kernels.gelu(_product(first, normed, hidden.dtype))
    else:
        inner = Activation(_gelu_of_product(first, normed.values))
    return hidden, PendingResidual(_product(second, inner, hidden.dtype).view(shape), ffn_gate)


def _attend_text(attention: Any, projected: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Queries [batch, tokens, dim], before their norm, to what they find in the text, of the same shape."""
    norm, heads = attention.norm_q, attention.heads
    if keys.shape[2] <= kernels.LONGEST_TEXT:
        return kernels.attend_text(projected, norm.weight, norm.eps, keys, values, bias, heads)
    (query,) = kernels.norm_rotate(projected, (norm.weight,), norm.eps, None, heads)
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=bias)
    return attended.transpose(1, 2).flatten(2)


def _output(attention: Any, attended: Tensor, fp8: bool) -> Tensor:
    """The output projection of what was attended to, [batch, tokens, dim] -> [rows, dim]."""
    rows = attended.flatten(0, 1)
    return _product(attention.to_out[0], kernels.quantise(rows) if fp8 else Activation(rows), attended.dtype)


def _product(layer: Any, activation: Activation, dtype: torch.dtype) -> Tensor:
    """A linear layer's output [rows, out]; of a quantised activation if the layer is one in FP8."""
    if activation.scale is None:
        return layer(activation.values)
    return layer.multiply(activation.values, activation.scale, dtype)


def _gelu_of_product(layer: Any, rows: Tensor) -> Tensor:
    """GELU (tanh form) of a linear layer; on a GPU in the product's epilogue."""
    if isinstance(layer, Int8Linear):
        return F.gelu(layer(rows), approximate="tanh")
    if rows.is_cuda:
        return torch._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True)
    return F.gelu(F.linear(rows, layer.weight, layer.bias), approximate="tanh")
