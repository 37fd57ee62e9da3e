"""Blocks of the one-frame transformer on a GPU: matrix products, attention, and `kernels` for all in between.

The same arithmetic as `FrameBlock.forward`, with fewer roundings. Nothing is compiled, so a size class costs nothing
before it is first used. What a block's last product adds to the hidden states is added by the next block's first
kernel: `through` carries it from block to block. Needs Triton (`own_kernels.kernels_usable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models import kernels
from wanbatch.pipeline.models.adapter_stacks import BlockStacks
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.int8 import Int8Linear
from wanbatch.pipeline.models.kernels import Activation, LowRankTerm, PendingResidual
from wanbatch.pipeline.models.slot_weights import SlotLinear
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
        stacks = context.stacks_of(index)
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
    fp8 = getattr(block.qkv, "takes_float8", False)
    own, text, eps = block.attn1, block.attn2, block.norm1.eps
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = vectors.unbind(1)
    dim = hidden.shape[2]
    product, change = partial(_product, like=hidden), partial(_change, stacks=stacks, tokens=hidden.shape[1])

    hidden, normed = kernels.add_norm(hidden, pending, scale, shift, eps, modulated=True, fp8=fp8)
    term = change(normed, "qkv")
    projected = product(block.query_key_value(), normed)
    weights = own.norm_q.weight, own.norm_k.weight
    query, key = _norm_rotate(projected, weights, own.norm_q.eps, rotary, block.heads, term)
    value = projected[..., -dim:].unflatten(2, (block.heads, -1))
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    normed = _as_input(attended.transpose(1, 2).flatten(2), fp8)
    term = change(normed, "out")
    pending = PendingResidual(product(own.to_out[0], normed), gate, term)

    norm = block.norm2
    hidden, normed = kernels.add_norm(hidden, pending, norm.weight, norm.bias, norm.eps, fp8=fp8)
    term = change(normed, "text_query")
    attended = _attend_text(text, product(text.to_q, normed), *of_text, term)
    normed = _as_input(attended, fp8)
    term = change(normed, "text_out")
    pending = PendingResidual(product(text.to_out[0], normed), None, term)

    hidden, normed = kernels.add_norm(hidden, pending, ffn_scale, ffn_shift, eps, modulated=True, fp8=fp8)
    inner, term = _feed_inwards(block.ffn.net[0].proj, normed, hidden, fp8, stacks)
    return hidden, PendingResidual(product(block.ffn.net[2], inner), ffn_gate, term)


def _change(activation: Activation, name: str, *, stacks: BlockStacks | None, tokens: int) -> LowRankTerm | None:
    """What adapters add to a product of `adapter_stacks.PRODUCTS` with this input; None without them."""
    return None if stacks is None else kernels.low_rank_term(activation, *stacks[name], tokens)


def _feed_inwards(
    layer: Any, normed: Activation, hidden: Tensor, fp8: bool, stacks: BlockStacks | None
) -> tuple[Activation, LowRankTerm | None]:
    """The input of a feed-forward layer's second product, and what adapters add to that product."""
    if stacks is not None:
        term = kernels.low_rank_term(normed, *stacks["inner"], hidden.shape[1])
        return kernels.gelu_low_rank(_product(layer, normed, like=hidden), term, *stacks["outer"], fp8)
    if fp8:
        return kernels.gelu(_product(layer, normed, like=hidden).flatten(0, 1)), None
    return Activation(_gelu_of_product(layer, normed.values)), None


def _norm_rotate(
    states: Tensor,
    weights: tuple[Tensor, ...],
    eps: float,
    rotary: tuple[Tensor, Tensor] | None,
    heads: int,
    term: LowRankTerm | None,
) -> tuple[Tensor, ...]:
    """Norm and rotation of a projection's first parts, with what adapters add to all of it."""
    if term is None:
        return kernels.norm_rotate(states, weights, eps, rotary, heads)
    return kernels.norm_rotate_low_rank(states, weights, eps, rotary, heads, term)


def _attend_text(
    attention: Any, projected: Tensor, keys: Tensor, values: Tensor, bias: Tensor, term: LowRankTerm | None
) -> Tensor:
    """Queries [batch, tokens, dim], before their norm, to what they find in the text, of the same shape."""
    norm, heads = attention.norm_q, attention.heads
    if kernels.holds_text(keys):
        if term is not None:
            projected = kernels.add_low_rank(projected, term)
        return kernels.attend_text(projected, norm.weight, norm.eps, keys, values, bias, heads)
    (query,) = _norm_rotate(projected, (norm.weight,), norm.eps, None, heads, term)
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=bias)
    return attended.transpose(1, 2).flatten(2)


def _as_input(attended: Tensor, fp8: bool) -> Activation:
    """What was attended to, [batch, tokens, dim], as the input of an output projection."""
    rows = attended.flatten(0, 1)
    return kernels.quantise(rows) if fp8 else Activation(rows)


def _product(layer: Any, activation: Activation, *, like: Tensor) -> Tensor:
    """A linear layer's output, [batch, tokens, out]; quantised inputs are for layers in FP8.

    Args:
        layer: With weight and bias.
        activation: Its input, [rows, in].
        like: Hidden states, [batch, tokens, dim].
    """
    if activation.scale is None:
        out = _linear(layer, activation.values)
    else:
        out = layer.multiply(activation.values, activation.scale, like.dtype)
    return out.view(*like.shape[:2], -1)


def _linear(layer: Any, rows: Tensor) -> Tensor:
    """A linear layer's output, [rows, out], of inputs that are not quantised yet."""
    if isinstance(layer, SlotLinear):
        return layer.linear(rows)
    return layer(rows) if isinstance(layer, Int8Linear) else F.linear(rows, layer.weight, layer.bias)


def _gelu_of_product(layer: Any, rows: Tensor) -> Tensor:
    """GELU (tanh form) of a linear layer; on a GPU in the product's epilogue."""
    if isinstance(layer, SlotLinear):
        return layer.linear_gelu(rows)
    if isinstance(layer, Int8Linear):
        return F.gelu(layer(rows), approximate="tanh")
    if rows.is_cuda:
        return torch._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True)
    return F.gelu(F.linear(rows, layer.weight, layer.bias), approximate="tanh")
