"""One block of the Wan transformer for a single frame: self-attention, attention to the text, feed-forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models.adapter_stacks import BlockStacks, with_adapters

ORIGINAL = "original_"  # before the names of weights that are kept beside those in 8 bits

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""(weight [out, in], bias [out] or None) -> the layer that takes a linear layer's place."""


class Joined(NamedTuple):
    """Several linear layers of one input as one.

    Attributes:
        weight: [out, in], theirs after each other.
        bias: [out].
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(states, self.weight, self.bias)


class FrameBlock(nn.Module):
    """One transformer block over the modules of a diffusers `WanTransformerBlock`, whose parameters it shares."""

    norm1: Any
    norm2: Any
    norm3: Any
    attn1: Any
    attn2: Any
    ffn: Any
    scale_shift_table: Any
    qkv_weight: Tensor | None
    qkv_bias: Tensor | None

    def __init__(self, block: Any):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.attn1, self.attn2, self.ffn = block.attn1, block.attn2, block.ffn
        self.scale_shift_table = block.scale_shift_table
        self.heads = block.attn1.heads
        self.qkv: nn.Module | None = None  # takes the place of the joined weights once layers are replaced
        self.register_buffer("qkv_weight", None, persistent=False)
        self.register_buffer("qkv_bias", None, persistent=False)

    @torch.no_grad()
    def fuse(self) -> None:
        """Lay the query, key and value weights in one matrix, of which they become views; once."""
        if self.qkv_weight is not None:
            return
        self.qkv_weight, self.qkv_bias = _concatenated((self.attn1.to_q, self.attn1.to_k, self.attn1.to_v))
        self._share_fused()

    @torch.no_grad()
    def replace_linears(self, make: MakeLinear, keep: bool = False) -> None:
        """Replace the large linear layers and free their weights; the text's keys and values stay as they are.

        Args:
            make: Makes the new layer from a weight and a bias.
            keep: Keep the weights, for what is merged into them (`with_layers`).

        Raises:
            ValueError: If the block was not fused before.
        """
        layers = self.large_layers()
        if keep:
            for name, layer in layers.items():
                self.register_buffer(ORIGINAL + name, layer.weight.data, persistent=False)
        self.qkv_weight = self.qkv_bias = None
        self.attn1.to_q = self.attn1.to_k = self.attn1.to_v = None  # views of the weight that is to be freed
        self._set_layers({name: make(layer.weight, layer.bias) for name, layer in layers.items()})

    def query_key_value(self) -> Any:
        """The layer that gives all three, with `weight` and `bias`.

        Raises:
            ValueError: If the block was not fused before.
        """
        if self.qkv is not None:
            return self.qkv
        if self.qkv_weight is None:
            raise ValueError("fuse the transformer before its layers are used or replaced")
        return Joined(self.qkv_weight, self.qkv_bias)

    def large_layers(self) -> dict[str, Any]:
        """The linear layers of `block_products.PRODUCTS`, by their names, each with `weight` and `bias`.

        Raises:
            ValueError: If the block was not fused before.
        """
        return {
            "qkv": self.query_key_value(),
            "out": self.attn1.to_out[0],
            "text_query": self.attn2.to_q,
            "text_out": self.attn2.to_out[0],
            "inner": self.ffn.net[0].proj,
            "outer": self.ffn.net[2],
        }

    def with_layers(self, make: Callable[[Any, Tensor], nn.Module]) -> FrameBlock:
        """A block that shares all with this one but its large linear layers.

        Args:
            make: Makes each from the one here and its weight before any rounding to 8 bits.

        Raises:
            ValueError: If the layers were replaced and their weights not kept.
        """
        layers = self.large_layers()
        if self.qkv is not None and not hasattr(self, f"{ORIGINAL}qkv"):
            raise ValueError("the weights were not kept when the layers were replaced")
        twin = _sharing(self)
        for name in ("attn1", "attn2", "ffn"):
            setattr(twin, name, _sharing(getattr(self, name)))
        for module, name in ((twin.attn1, "to_out"), (twin.attn2, "to_out"), (twin.ffn, "net")):
            setattr(module, name, _sharing(getattr(module, name)))
        twin.ffn.net[0] = _sharing(twin.ffn.net[0])
        twin.qkv_weight = twin.qkv_bias = None
        twin._set_layers(
            {name: make(layer, getattr(self, ORIGINAL + name, layer.weight)) for name, layer in layers.items()}
        )
        return twin

    def _set_layers(self, layers: Mapping[str, nn.Module]) -> None:
        self.qkv = layers["qkv"]
        self.attn1.to_out[0], self.attn2.to_q, self.attn2.to_out[0] = (
            layers[name] for name in ("out", "text_query", "text_out")
        )
        self.ffn.net[0].proj, self.ffn.net[2] = layers["inner"], layers["outer"]

    def share_joined(self) -> None:
        """Make query, key and value, which need not have weights yet, views of joined ones that were read."""
        if self.qkv_weight is None or self.qkv_bias is None:
            raise ValueError("there are no joined weights")
        parts = (self.attn1.to_q, self.attn1.to_k, self.attn1.to_v)
        for part, weight, bias in zip(parts, self.qkv_weight.chunk(3), self.qkv_bias.chunk(3), strict=True):
            part.weight, part.bias = (nn.Parameter(view, requires_grad=False) for view in (weight, bias))

    def _share_fused(self) -> None:
        """Make the weights of query, key and value views of the fused ones."""
        if self.qkv_weight is None or self.qkv_bias is None:
            return
        parts = (self.attn1.to_q, self.attn1.to_k, self.attn1.to_v)
        weights, biases = self.qkv_weight.chunk(3), self.qkv_bias.chunk(3)
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            part.weight.data, part.bias.data = weight, bias

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)  # moves views and what they are views of one by one
        self._share_fused()
        return self

    def text_keys_values(self, states: Tensor, stacks: BlockStacks | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, [batch, heads, length, head_dim], of projected text states [batch, length, dim].

        Args:
            states: Of the texts.
            stacks: What the texts' adapters add (`block_products.TEXT_PRODUCTS`); None for nothing.
        """
        attention = self.attn2
        if stacks is None:
            keys, values = attention.to_k(states), attention.to_v(states)
        else:
            keys = stacks["text_key"].product(attention.to_k, states)
            values = stacks["text_value"].product(attention.to_v, states)
        keys = attention.norm_k(keys)
        return self._split(keys).transpose(1, 2), self._split(values).transpose(1, 2)

    def forward(
        self,
        hidden: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        text_keys: Tensor,
        text_values: Tensor,
        text_bias: Tensor,
        stacks: BlockStacks | None = None,
    ) -> Tensor:
        """Hidden states after the block.

        Args:
            hidden: [batch, tokens, dim].
            modulation: [batch, 6, dim], from the noise level: shift, scale and gate of attention and feed-forward.
            rotary: Cosines and sines of the position embedding, see `FrameTransformer.rotary`.
            text_keys: [batch, heads, length, head_dim].
            text_values: As `text_keys`.
            text_bias: [batch, 1, 1, length], added to the scores of the attention to the text.
            stacks: What the rows' adapters add (`block_products.PRODUCTS`); None for nothing.

        Returns:
            [batch, tokens, dim].
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + modulation.float()).chunk(
            6, dim=1
        )

        normed = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        hidden = (hidden.float() + self._attend_self(normed, rotary, stacks) * gate).type_as(hidden)

        normed = self.norm2(hidden.float()).type_as(hidden)
        hidden = hidden + self._attend_text(normed, text_keys, text_values, text_bias, stacks)

        normed = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        return (hidden.float() + self._feed_forward(normed, stacks).float() * ffn_gate).type_as(hidden)

    def _attend_self(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], stacks: BlockStacks | None) -> Tensor:
        attention = self.attn1
        projected = with_adapters(self._query_key_value(hidden), hidden, stacks, "qkv")
        query, key, value = projected.chunk(3, dim=-1)
        query = _rotate(self._split(attention.norm_q(query)), rotary).transpose(1, 2)
        key = _rotate(self._split(attention.norm_k(key)), rotary).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, self._split(value).transpose(1, 2))
        attended = attended.transpose(1, 2).flatten(2)
        return with_adapters(attention.to_out[0](attended), attended, stacks, "out")

    def _query_key_value(self, hidden: Tensor) -> Tensor:
        if self.qkv is not None:
            return self.qkv(hidden)
        if self.qkv_weight is not None:
            return F.linear(hidden, self.qkv_weight, self.qkv_bias)
        return F.linear(hidden, *_concatenated((self.attn1.to_q, self.attn1.to_k, self.attn1.to_v)))

    def _attend_text(
        self, hidden: Tensor, keys: Tensor, values: Tensor, bias: Tensor, stacks: BlockStacks | None
    ) -> Tensor:
        attention = self.attn2
        projected = with_adapters(attention.to_q(hidden), hidden, stacks, "text_query")
        query = self._split(attention.norm_q(projected)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        attended = attended.transpose(1, 2).flatten(2)
        return with_adapters(attention.to_out[0](attended), attended, stacks, "text_out")

    def _feed_forward(self, hidden: Tensor, stacks: BlockStacks | None) -> Tensor:
        if stacks is None:
            return self.ffn(hidden)
        first, second = self.ffn.net[0].proj, self.ffn.net[2]
        inner = F.gelu(with_adapters(first(hidden), hidden, stacks, "inner"), approximate="tanh")
        return with_adapters(second(inner), inner, stacks, "outer")

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.heads, -1))


def _sharing(module: Any) -> Any:
    """A module with all that is another's, whose parts can be replaced without replacing those of the other."""
    twin = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        setattr(twin, name, dict(getattr(module, name)))
    return twin


def _concatenated(linears: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    return torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])


def _rotate(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of [batch, tokens, heads, head_dim] with interleaved pairs, computed in fp32."""
    cosines, sines = rotary
    first, second = states.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([first * cosines - second * sines, first * sines + second * cosines], dim=-1)
    return rotated.flatten(-2).type_as(states)
