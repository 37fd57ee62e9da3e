"""What the transformer's cross-attention sees of a batch of prompts: keys, values and score biases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wanbatch.pipeline.models.adapter_stacks import AdapterStacks, BlockStacks
from wanbatch.pipeline.models.slot_weights import SlotWeights


@dataclass(frozen=True, slots=True)
class CrossAttentionContext:
    """The keys and values of a batch of prompts in every block; the `TextContext` of `FrameTransformer`.

    Attributes:
        keys: [layers, batch, heads, length, head_dim], in the model's dtype.
        values: As `keys`.
        bias: [batch, 1, 1, length], added to the attention scores: 0 for a token, -inf for an unused position, and
            the logarithm of the number of padding tokens on the last two positions, which stand for the padding.
        adapters: What the rows' adapters add to the products of the blocks; None for nothing.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    adapters: AdapterStacks | SlotWeights | None = None

    def first(self, count: int) -> CrossAttentionContext:
        """Views of the first `count` prompts of the batch, with all adapters."""
        beside = isinstance(self.adapters, SlotWeights) and self.adapters.slots == count < len(self.bias)
        own = slice(None, None, 2) if beside else slice(count)
        return CrossAttentionContext(self.keys[:, own], self.values[:, own], self.bias[own], self.adapters)

    def with_adapters(self, adapters: AdapterStacks | SlotWeights) -> CrossAttentionContext:
        """The same prompts, for rows with these adapters; copies of one prompt, if its order depends on them."""
        return replace(self, adapters=adapters)

    def stacks_of(self, block: int) -> BlockStacks | None:
        """What is added to the products of a block; None for nothing, or where weights of the slots have it."""
        return self.adapters.blocks[block] if isinstance(self.adapters, AdapterStacks) else None

    def repeated(self, count: int) -> CrossAttentionContext:
        """A new batch of `count` copies of the first prompt, without adapters."""
        keys, values = (part[:, :1].repeat(1, count, 1, 1, 1) for part in (self.keys, self.values))
        return CrossAttentionContext(keys, values, self.bias[:1].repeat(count, 1, 1, 1))

    def views(self, index: int) -> list[Tensor]:
        """Views of all that is held for one prompt of the batch."""
        if isinstance(self.adapters, SlotWeights):
            index = self.adapters.place(index, len(self.bias))
        return [self.keys[:, index], self.values[:, index], self.bias[index]]


def padding_bias(lengths: Tensor, length: int, padded_length: int, dtype: torch.dtype) -> Tensor:
    """Score biases of the text's positions and of two more that stand for the padding.

    The padding's logarithm is split over two equal keys because bf16 holds ln(500) only to 0.02, which would
    weigh the padding 2 % wrong: the first key takes the rounded-down logarithm, the second what is left.

    Args:
        lengths: [batch], int64, tokens of each prompt.
        length: Positions for tokens.
        padded_length: Tokens that the model pads each prompt to.
        dtype: Of the result.

    Returns:
        [batch, 1, 1, length + 2].
    """
    positions = torch.arange(length, device=lengths.device)
    tokens = torch.zeros(len(lengths), length, device=lengths.device)
    tokens.masked_fill_(positions >= lengths[:, None], -math.inf)
    padding = (padded_length - lengths).double()
    step = torch.finfo(dtype).eps * 4  # ln(512) < 8, where the dtype's spacing is at most 4 eps
    first = (padding.log() / step).floor() * step
    rest = (padding - first.exp()).clamp(min=0).log()
    bias = torch.cat([tokens, first[:, None].float(), rest[:, None].float()], dim=1)
    return bias.to(dtype)[:, None, None, :]
