"""The tensors of adapter files: low-rank pairs, and full differences where there is no pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from safetensors import safe_open
from torch import Tensor

from wanbatch.pipeline.adapters.contents import FULL, LOHA, LOW_RANK, Contents, LayerChange
from wanbatch.pipeline.adapters.files import AdapterFile, Part
from wanbatch.pipeline.adapters.layouts import DIFF, DOWN, UP


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A change of a layer's weight, `scale * up @ down`.

    Attributes:
        down: [rank, in].
        up: [out, rank].
        scale: Alpha over rank.
    """

    down: Tensor
    up: Tensor
    scale: float

    def delta(self) -> Tensor:
        """What is added to the weight, float32 [out, in]."""
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, slots=True, eq=False)
class AdapterTensors:
    """What an adapter adds to one transformer.

    Attributes:
        pairs: Diffusers' name of a module -> the low-rank change of its weight.
        deltas: Diffusers' name of a parameter -> what is added to it, float32, of the parameter's number of elements.
    """

    pairs: Mapping[str, LowRank] = field(default_factory=dict)
    deltas: Mapping[str, Tensor] = field(default_factory=dict)


def load_tensors(adapter: AdapterFile) -> tuple[AdapterTensors, ...]:
    """Read an adapter's tensors, on the CPU, for each transformer of the model that it was read for."""
    loaded: dict[int, AdapterTensors] = {}
    found = []
    for part in adapter.parts:
        if part is None:
            found.append(AdapterTensors())
            continue
        if id(part.contents) not in loaded:
            loaded[id(part.contents)] = _load(part)
        found.append(loaded[id(part.contents)])
    return tuple(found)


def _load(part: Part) -> AdapterTensors:
    contents: Contents = part.contents
    pairs: dict[str, LowRank] = {}
    deltas: dict[str, Tensor] = {}
    with safe_open(part.path, framework="pt") as file:
        for name, change in contents.layers.items():
            tensors = {what: file.get_tensor(key) for what, key in change.keys.items()}
            if change.kind == LOW_RANK:
                pairs[name] = LowRank(tensors[DOWN].flatten(1), tensors[UP].flatten(1), change.scale)
            else:
                deltas[f"{name}.weight"] = _full(change, {what: tensor.float() for what, tensor in tensors.items()})
        for name, (key, scale) in contents.additions.items():
            deltas[name] = file.get_tensor(key).float() * scale
    return AdapterTensors(pairs, deltas)


def _full(change: LayerChange, tensors: Mapping[str, Tensor]) -> Tensor:
    """The difference of a weight that has no low rank, float32."""
    if change.kind == FULL:
        return tensors[DIFF]
    if change.kind == LOHA:
        first, second = (tensors[f"hada_w{number}_a"] @ tensors[f"hada_w{number}_b"] for number in (1, 2))
        return change.scale * first * second
    left, right = (
        tensors[f"lokr_w{number}"] if f"lokr_w{number}" in tensors
        else tensors[f"lokr_w{number}_a"] @ tensors[f"lokr_w{number}_b"]
        for number in (1, 2)
    )  # fmt: skip
    return change.scale * torch.kron(left.contiguous(), right.contiguous())
