"""Blocks of the one-frame transformer on a GPU: matrix products, attention, and `kernels` for all in between.

The same arithmetic as `FrameBlock.forward`, with fewer roundings. Nothing is compiled, so a size class costs nothing
before it is first used. What a block's last product adds to the hidden states is added by the next block's first
kernel: `through` carries it from block to block. Needs Triton (`compiler.kernels_usable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models import kernels
from wanbatch.pipeline.models.adapter_stacks import BlockStacks, add_low_rank
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
        stacks = None if context.adapters is None else context.adapters.blocks[index]
        text = keys, values, context.bias
        hidden, pending = _block(blocks[index], hidden, pending, vectors, rotary, text, stacks)
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
    of_text: tuple[Tensor, Tensor, Tensor],
    stacks: BlockStacks | None,
) -> tuple[Tensor, PendingResidual]:
    """Hidden states without what the block's last product adds, and that. vectors: float32 [batch, 6, dim]."""
    fp8, keep = isinstance(block.qkv, Float8Linear), stacks is not None
    own, text, eps = block.attn1, block.attn2, block.norm1.eps
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = vectors.unbind(1)
    dim = hidden.shape[2]
    product = partial(_product, like=hidden, stacks=stacks)

    hidden, normed = kernels.add_norm(hidden, pending, scale, shift, eps, modulated=True, fp8=fp8, keep=keep)
    projected = product(_query_key_value(block), normed, "qkv")
    weights = own.norm_q.weight, own.norm_k.weight
    query, key = kernels.norm_rotate(projected, weights, own.norm_q.eps, rotary, block.heads)
    value = projected[..., -dim:].unflatten(2, (block.heads, -1))
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    attended = attended.transpose(1, 2).flatten(2)
    pending = PendingResidual(product(own.to_out[0], _as_input(attended, fp8, keep), "out"), gate)

    norm = block.norm2
    hidden, normed = kernels.add_norm(hidden, pending, norm.weight, norm.bias, norm.eps, fp8=fp8, keep=keep)
    attended = _attend_text(text, product(text.to_q, normed, "text_query"), *of_text)
    pending = PendingResidual(product(text.to_out[0], _as_input(attended, fp8, keep), "text_out"))

    hidden, normed = kernels.add_norm(hidden, pending, ffn_scale, ffn_shift, eps, modulated=True, fp8=fp8, keep=keep)
    first, second = block.ffn.net[0].proj, block.ffn.net[2]
    if fp8:
        inner = kernels.gelu(product(first, normed, "inner").flatten(0, 1), keep=keep)
    elif stacks is None:
        inner = Activation(_gelu_of_product(first, normed.values))
    else:
        inner = Activation(F.gelu(product(first, normed, "inner").flatten(0, 1), approximate="tanh"))
    return hidden, PendingResidual(product(second, inner, "outer"), ffn_gate)


def _attend_text(attention: Any, projected: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Queries [batch, tokens, dim], before their norm, to what they find in the text, of the same shape."""
    norm, heads = attention.norm_q, attention.heads
    if kernels.holds_text(keys):
        return kernels.attend_text(projected, norm.weight, norm.eps, keys, values, bias, heads)
    (query,) = kernels.norm_rotate(projected, (norm.weight,), norm.eps, None, heads)
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=bias)
    return attended.transpose(1, 2).flatten(2)


def _as_input(attended: Tensor, fp8: bool, keep: bool) -> Activation:
    """What was attended to, [batch, tokens, dim], as the input of an output projection."""
    rows = attended.flatten(0, 1)
    if not fp8:
        return Activation(rows)
    quantised = kernels.quantise(rows)
    return Activation(quantised.values, quantised.scale, rows) if keep else quantised


class _Joined(NamedTuple):
    weight: Tensor
    bias: Tensor | None


def _query_key_value(block: FrameBlock) -> Any:
    """The layer that gives query, key and value."""
    if block.qkv is not None:
        return block.qkv
    assert block.qkv_weight is not None
    return _Joined(block.qkv_weight, block.qkv_bias)


def _product(layer: Any, activation: Activation, name: str, *, like: Tensor, stacks: BlockStacks | None) -> Tensor:
    """A linear layer's output, with what the rows' adapters add; quantised inputs are for layers in FP8.

    Args:
        layer: With weight and bias.
        activation: Its input, [rows, in].
        name: Of the product, in `adapter_stacks.PRODUCTS`.
        like: Hidden states, [batch, tokens, dim].
        stacks: Of the block; None without adapters.

    Returns:
        [batch, tokens, out].
    """
    if activation.scale is None:
        out = _linear(layer, activation.values)
    else:
        out = layer.multiply(activation.values, activation.scale, like.dtype)
    out = out.view(*like.shape[:2], -1)
    if stacks is None:
        return out
    return add_low_rank(out, activation.unquantised.view(*like.shape[:2], -1), stacks[name])


def _linear(layer: Any, rows: Tensor) -> Tensor:
    """A linear layer's output, [rows, out], of inputs that are not quantised yet."""
    return layer(rows) if isinstance(layer, Int8Linear) else F.linear(rows, layer.weight, layer.bias)


def _gelu_of_product(layer: Any, rows: Tensor) -> Tensor:
    """GELU (tanh form) of a linear layer; on a GPU in the product's epilogue."""
    if isinstance(layer, Int8Linear):
        return F.gelu(layer(rows), approximate="tanh")
    if rows.is_cuda:
        return torch._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True)
    return F.gelu(F.linear(rows, layer.weight, layer.bias), approximate="tanh")
