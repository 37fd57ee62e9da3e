"""Adapters of the rows in a batch: low-rank matrices a slot, added to what the linear layers give.

A layer's output for a row is `W x + up (down x)` with the row's own `down` and `up`. These lie slot by slot in stacks
of fixed shape, padded with zeros to one rank. So the products have one shape whatever the slots hold, and a row's
result does not depend on the others, to the last bit. Stacks are filled when a row enters a slot, not at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.models.weight_merging import merged


class LayerStack(NamedTuple):
    """What is added to one product, for all slots.

    Attributes:
        down: [slots, parts * rank, in]; the parts of a product that is several layers at once have one input, and are
            equally wide.
        ups: [parts, slots, out, rank], with the scale in it.
    """

    down: Tensor
    ups: Tensor

    def product(self, layer: Any, states: Tensor) -> Tensor:
        """What a linear layer gives [slots, tokens, in], with what is added to it."""
        return add_low_rank(layer(states), states, self)


class MergedStack(NamedTuple):
    """The same of a product of one layer whose weight is merged with the slots' adapters; in float32.

    Attributes:
        down: As of `LayerStack`.
        ups: As of `LayerStack`.
        held: What is in which slot; slots with the same have the same matrices.
    """

    down: Tensor
    ups: Tensor
    held: Mapping[int, Hashable]

    def product(self, layer: Any, states: Tensor) -> Tensor:
        """What a linear layer gives [slots, tokens, in] with a slot's own matrices merged into its weight.

        Each product is one of all slots, of which those are taken that hold the same: it has the bits that a model
        has whose weight was merged before, since the size of a product can decide them. Slots that hold nothing get
        zeros.
        """
        out = states.new_zeros(*states.shape[:2], len(layer.weight))
        slots: dict[Hashable, list[int]] = {}
        for slot, key in self.held.items():
            slots.setdefault(key, []).append(slot)
        for same in slots.values():
            weight = merged(layer.weight, self.down[same[0]], self.ups[0, same[0]])
            product = F.linear(states, weight, layer.bias)
            for slot in same:
                out[slot] = product[slot]
        return out


BlockStacks = Mapping[str, LayerStack]
"""By the names of `block_products.PRODUCTS` or `TEXT_PRODUCTS`."""


def with_adapters(out: Tensor, states: Tensor, stacks: BlockStacks | None, product: str) -> Tensor:
    """A product, with what the slots' adapters add to it, in place; as it is without stacks. As `add_low_rank`."""
    return out if stacks is None else add_low_rank(out, states, stacks[product])


def add_low_rank(out: Tensor, states: Tensor, stack: LayerStack) -> Tensor:
    """Add to a product what the slots' adapters give, in place.

    Args:
        out: [sequences, tokens, out], of which each slot has one sequence, or two that stand `slots` apart.
        states: [sequences, tokens, in], what the product was made of.
        stack: Of the layer.

    Returns:
        `out`.
    """
    slots, parts = len(stack.down), len(stack.ups)
    for first in range(0, len(states), slots):
        own = slice(first, first + slots)
        inner = torch.bmm(states[own], stack.down.transpose(1, 2))
        for low, part, up in zip(inner.chunk(parts, 2), out[own].chunk(parts, 2), stack.ups, strict=True):
            part.baddbmm_(low, up.transpose(1, 2))
    return out


class AdapterStacks:
    """The stacks of all blocks of a transformer.

    Args:
        layers: How many blocks there are.
        products: `block_products.PRODUCTS` or `TEXT_PRODUCTS`.
        shape_of: Gives rows and columns of the weight of a module of a block.
        slots: How many rows they hold.
        rank: Of each slot.
        dtype: Of the products.
        device: Where they are.
        merging: Whether the stacks are `MergedStack`s.

    Attributes:
        blocks: For each block its stacks. Their tensors stay where they are.
        held: What is in which slot, for who fills them.
    """

    def __init__(
        self,
        layers: int,
        products: Mapping[str, tuple[str, ...]],
        shape_of: Callable[[str], tuple[int, int]],
        slots: int,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
        merging: bool = False,
    ):
        self.rank, self._products = rank, products
        self.held: dict[int, Hashable] = {}
        self.blocks: list[dict[str, Any]] = []
        for _ in range(layers):
            block = {}
            for name, modules in products.items():
                shapes = [shape_of(module) for module in modules]
                down = torch.zeros(slots, len(modules) * rank, shapes[0][1], dtype=dtype, device=device)
                ups = torch.zeros(len(shapes), slots, shapes[0][0], rank, dtype=dtype, device=device)
                block[name] = MergedStack(down, ups, self.held) if merging else LayerStack(down, ups)
            self.blocks.append(block)

    def fill(self, slot: int, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Put an adapter into a slot, and zeros where it has nothing.

        Args:
            slot: Which.
            pairs: Diffusers' name of a module -> down [r, in] and up [out, r], r at most `rank`, scale included.
        """
        places: list[Tensor] = []
        values: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            for name, modules in self._products.items():
                for part, module in enumerate(modules):
                    own = (
                        block[name].down[slot, part * self.rank : (part + 1) * self.rank],
                        block[name].ups[part][slot],
                    )
                    pair = pairs.get(f"blocks.{index}.{module}")
                    rank = 0 if pair is None else len(pair[0])
                    if rank < self.rank:
                        for place in own:
                            place.zero_()
                    if pair is not None:
                        places += [own[0][:rank], own[1][:, :rank]]
                        values += pair
        if places:
            torch._foreach_copy_(places, values)  # a few launches for all layers
