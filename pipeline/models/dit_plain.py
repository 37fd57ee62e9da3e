"""Blocks of the one-frame transformer, one after the other; `dit_fused.py` does the same by kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.text_context import CrossAttentionContext


def through(
    blocks: Sequence[FrameBlock],
    indices: range,
    hidden: Tensor,
    modulation: Tensor,
    rotary: tuple[Tensor, Tensor],
    context: CrossAttentionContext,
) -> Tensor:
    """As `dit_fused.through`."""
    for index in indices:
        text = context.keys[index], context.values[index], context.bias
        stacks = context.stacks_of(index)
        own = () if stacks is None else (stacks,)
        hidden = blocks[index](hidden, modulation, rotary, *text, *own)
    return hidden
