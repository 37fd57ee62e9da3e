"""Adapters in the memory of the host, each in one piece, from which a GPU copies it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanbatch.machine import available_memory
from wanbatch.pipeline.adapters.tensors import AdapterTensors
from wanbatch.pipeline.loading.host_memory import pin, whole_pages

MOST_PINNED_BYTES = 8 << 30
"""Of adapters in pinned memory, of one worker."""

PINNED_PART = 1 / 32
"""Of the host's free memory that one worker pins for adapters at most: pinned memory cannot be paged out, and a host
may have eight workers."""

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Diffusers' name of a module -> down [rank, in] and up [out, rank]."""


@dataclass(frozen=True, slots=True)
class LayerForm:
    """The form of an adapter's pair for one layer.

    Attributes:
        rank: Of the change.
        inputs: Of the layer.
        outputs: Of the layer.
    """

    rank: int
    inputs: int
    outputs: int


def views(downs: Tensor, ups: Tensor, forms: Mapping[str, LayerForm]) -> dict[str, tuple[Tensor, Tensor]]:
    """The pairs that lie one after the other in two pieces of memory, in the order of `forms`.

    Args:
        downs: [elements], each layer's [rank, in] in turn.
        ups: [elements], each layer's [out, rank] in turn.
        forms: By layer.
    """
    down_parts = downs.split([form.rank * form.inputs for form in forms.values()])
    up_parts = ups.split([form.outputs * form.rank for form in forms.values()])
    return {
        layer: (down.view(form.rank, form.inputs), up.view(form.outputs, form.rank))
        for (layer, form), down, up in zip(forms.items(), down_parts, up_parts, strict=True)
    }


def joined_forms(parts: Sequence[Mapping[str, LayerForm]]) -> dict[str, LayerForm]:
    """The forms of several adapters as one: the ranks of each layer after each other."""
    joined: dict[str, LayerForm] = {}
    for forms in parts:
        for layer, form in forms.items():
            rank = form.rank + (joined[layer].rank if layer in joined else 0)
            joined[layer] = LayerForm(rank, form.inputs, form.outputs)
    return joined


def views_of_parts(
    joined: Pairs, parts: Sequence[Mapping[str, LayerForm]]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Where each of several adapters lies in the pairs of all together: its downs and its ups, layer by layer.

    Args:
        joined: With the forms that `joined_forms` gives for the parts.
        parts: The forms of each.

    Yields:
        For each part, downs [rank, in] and ups [out, rank] in the order of its forms.
    """
    first = dict.fromkeys(joined, 0)
    for forms in parts:
        downs, ups = [], []
        for layer, form in forms.items():
            ranks = slice(first[layer], first[layer] + form.rank)
            downs.append(joined[layer][0][ranks])
            ups.append(joined[layer][1][:, ranks])
            first[layer] = ranks.stop
        yield downs, ups


class HostAdapter:
    """What one adapter gives one transformer.

    Args:
        tensors: Of the adapter; only its low-rank pairs are used, see `Contents.only_merged`.
        dtype: Of the model.
        pin_bytes: How much may be pinned; if that is too little, nothing is.

    Attributes:
        forms: Of each layer's pair.
        downs: [elements], in the model's dtype, laid out as `views` has it.
        ups: [elements], float32, with the adapter's scale, which is rounded only with the weight of a row.
        rank: The largest of a layer.
        pinned_bytes: How much is pinned, 0 or all.
    """

    def __init__(self, tensors: AdapterTensors, dtype: torch.dtype, pin_bytes: int = 0):
        pairs = tensors.pairs
        self.forms = {
            layer: LayerForm(len(pair.down), pair.down.shape[1], len(pair.up)) for layer, pair in pairs.items()
        }
        self.rank = max((form.rank for form in self.forms.values()), default=0)
        up_bytes = 4 * sum(form.outputs * form.rank for form in self.forms.values())
        total = up_bytes + dtype.itemsize * sum(form.rank * form.inputs for form in self.forms.values())
        memory = whole_pages(total)
        self.ups = memory[:up_bytes].view(torch.float32)
        self.downs = memory[up_bytes:total].view(dtype)
        for layer, (down, up) in views(self.downs, self.ups, self.forms).items():
            down.copy_(pairs[layer].down)
            up.copy_(pairs[layer].scale * pairs[layer].up.float())
        self.pinned_bytes = total if 0 < total <= pin_bytes and pin(self, memory) else 0

    @property
    def elements(self) -> int:
        """Of all pairs."""
        return sum(form.rank * (form.inputs + form.outputs) for form in self.forms.values())


def pinned_share(device: torch.device) -> int:
    """Bytes that a worker pins for adapters at most: some of the memory that is free now; none without a GPU."""
    return min(MOST_PINNED_BYTES, int(available_memory() * PINNED_PART)) if device.type == "cuda" else 0
