"""Weights of its own for each slot of a batch, into which the adapters of the slot's row are merged.

`adapter_stacks.py` adds what adapters change to each product of a batch. Here a row's adapters are merged into a copy
of the large layers instead, in the arithmetic of `adapters/merging.py`, when the row enters its slot. So a row is
computed by what a model with its adapters merged is, and no kernel has more to do; it takes the memory of the blocks
once for each slot. Each slot has products of its own, of one shape whatever the slots hold, so that a row's result
does not depend on the others, to the last bit.

The sequences of a slot, with and without the prompt, must lie side by side here (`SlotWeights.beside`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models.block_products import PRODUCTS
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.fp8 import Float8Linear
from wanbatch.pipeline.models.int8 import Int8Linear
from wanbatch.pipeline.models.weight_merging import by_kernel, merged

BESIDE = 1  # streams that products run in besides the current one

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Diffusers' name of a module -> down [r, in] and up [out, r], float32, scale included."""


class SlotLinear(nn.Module):
    """A linear layer whose weight is another one in each slot.

    Args:
        layer: That of all rows: with a weight [out, in] and a bias [out], in 8 bits or not.
        original: The weight before it was rounded to 8 bits, [out, in].
        slots: Of the batch.

    Attributes:
        layers: One a slot.
    """

    def __init__(self, layer: Any, original: Tensor, slots: int):
        super().__init__()
        self.layers = [_copied(layer) for _ in range(slots)]
        self._layer, self._original = layer, original
        self._width = len(original)

    @property
    def takes_float8(self) -> bool:
        """Whether it multiplies quantised inputs."""
        return isinstance(self.layers[0], Float8Linear)

    def fill(self, slot: int, parts: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Give a slot the model's weight with an adapter merged in.

        Args:
            slot: Which.
            parts: Of the layers that this one is, which are equally wide: down [r, in] and up [width, r], float32;
                None: the adapter leaves that one as it is.
        """
        layer, width = self.layers[slot], self._width // len(parts)
        for number, pair in enumerate(parts):
            rows = slice(number * width, (number + 1) * width)
            if pair is None:
                layer.weight[rows].copy_(self._layer.weight[rows])
                if _in_8_bits(layer):
                    layer.scale[:, rows].copy_(self._layer.scale[:, rows])
            elif self.takes_float8 and by_kernel(self._original):
                from wanbatch.pipeline.models.kernels import merge_low_rank  # needs Triton

                merge_low_rank(self._original[rows], *pair, layer.weight[rows], layer.scale[0, rows])
            elif _in_8_bits(layer):
                layer.take(merged(self._original[rows], *pair), rows)
            else:
                layer.weight[rows].copy_(merged(self._original[rows], *pair))

    def forward(self, x: Tensor) -> Tensor:
        """[sequences, tokens, in] -> [sequences, tokens, out], or [rows, in] -> [rows, out]; the slots in turn."""
        parts = x.unflatten(0, (len(self.layers), -1))
        return torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)])

    def linear(self, rows: Tensor) -> Tensor:
        """As `forward` of [rows, in], written straight to where it belongs."""
        if isinstance(self.layers[0], Int8Linear):
            return self.forward(rows)

        def product(layer: Any, own: Tensor, out: Tensor) -> None:
            torch.addmm(layer.bias, own, layer.weight.t(), out=out)

        return self._in_turn(product, rows.dtype, rows)

    def linear_gelu(self, rows: Tensor) -> Tensor:
        """GELU (tanh form) of `linear`; on a GPU in the product's epilogue."""
        if isinstance(self.layers[0], Int8Linear) or not rows.is_cuda:
            return F.gelu(self.linear(rows), approximate="tanh")

        def product(layer: Any, own: Tensor, out: Tensor) -> None:
            torch._addmm_activation(layer.bias, own, layer.weight.t(), use_gelu=True, out=out)

        return self._in_turn(product, rows.dtype, rows)

    def multiply(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """As `Float8Linear.multiply`."""

        def product(layer: Any, own: Tensor, own_scale: Tensor, out: Tensor) -> None:
            layer.multiply(own, own_scale, dtype, out)

        return self._in_turn(product, dtype, rows, scale)

    def _in_turn(self, product: Callable[..., None], dtype: torch.dtype, *inputs: Tensor) -> Tensor:
        """The products of all slots; on a GPU in several streams in turn.

        The last tiles of one product do not fill a GPU, so the next one's begin beside them.
        """
        slots = len(self.layers)
        out = inputs[0].new_empty(len(inputs[0]), self._width, dtype=dtype)
        shares = zip(self.layers, *(one.unflatten(0, (slots, -1)) for one in (*inputs, out)), strict=True)
        if not out.is_cuda:
            for share in shares:
                product(*share)
            return out
        here = torch.cuda.current_stream(out.device)
        streams = [here, *_streams_beside(out.device)]
        for stream in streams[1:]:
            stream.wait_stream(here)
        for number, share in enumerate(shares):
            with torch.cuda.stream(streams[number % len(streams)]):
                product(*share)
        for stream in streams[1:]:
            here.wait_stream(stream)
        return out


def _in_8_bits(layer: Any) -> bool:
    return isinstance(layer, Float8Linear | Int8Linear)


def _copied(layer: Any) -> Any:
    """A layer with memory of its own for the weight."""
    if isinstance(layer, nn.Module):
        return copy.deepcopy(layer).requires_grad_(False)
    return layer._replace(weight=layer.weight.clone())


@cache
def _streams_beside(device: torch.device) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(BESIDE)]


class SlotWeights:
    """The blocks of a transformer with weights of its own for each slot; the `AdapterSlots` of rows.

    Args:
        blocks: Of the transformer, on their device, made ready.
        slots: How many rows they take.
        compiled: Whether blocks are to be compiled, as `FrameTransformer.compile_blocks` does.

    Attributes:
        blocks: The same, sharing all but their large linear layers.
        slots: How many there are.
        held: What is in which slot, for who fills them.
    """

    def __init__(self, blocks: Iterable[Any], slots: int, compiled: bool = False):
        self.slots = slots
        self.held: dict[int, Hashable] = {}
        self.blocks: list[FrameBlock] = [
            block.with_layers(lambda layer, original: SlotLinear(layer, original, slots)) for block in blocks
        ]
        if compiled:
            for block in self.blocks:
                block.compile(fullgraph=True, dynamic=False)

    @torch.no_grad()
    def fill(self, slot: int, pairs: Pairs) -> None:
        """Merge an adapter into a slot's weights; where it has nothing, they are the model's own."""
        for index, block in enumerate(self.blocks):
            for name, layer in block.large_layers().items():
                layer.fill(slot, [pairs.get(f"blocks.{index}.{module}") for module in PRODUCTS[name]])

    def place(self, sequence: int, sequences: int) -> int:
        """Where a sequence lies among others whose second half are the same slots' without the prompt."""
        if sequences == self.slots:
            return sequence
        return sequence % self.slots * 2 + sequence // self.slots

    def beside(self, states: Tensor) -> Tensor:
        """[sequences, ...], of which a slot may have two that stand `slots` apart -> with these side by side."""
        if len(states) == self.slots:
            return states
        return states.unflatten(0, (2, self.slots)).transpose(0, 1).flatten(0, 1)

    def apart(self, states: Tensor) -> Tensor:
        """What `beside` was given, of what it gives."""
        if len(states) == self.slots:
            return states
        return states.unflatten(0, (self.slots, 2)).transpose(0, 1).flatten(0, 1)
