"""What an adapter file holds for a model: each layer that it changes, with rank and scale. No torch.

Every key of a file is read, or the file is refused: a key that is left out is an adapter that silently does
something else than its author saw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.header import Header
from wanbatch.pipeline.adapters.key_lists import listed
from wanbatch.pipeline.adapters.layouts import (
    ALPHA,
    DIFF,
    DIFF_BIAS,
    DIFF_MODULATION,
    DORA,
    DOWN,
    HADAMARD,
    UP,
    UP_BIAS,
    Key,
    is_whole_model,
    part_of,
    understood,
)
from wanbatch.pipeline.adapters.wan_layers import WIDTHS, WanLayers

KEYS_SHOWN = 5
LOW_RANK, LOHA, LOKR, FULL = "LoRA", "LoHa", "LoKr", "full difference"
_BLOCK = re.compile(r"blocks[._](\d+)[._]")


@dataclass(frozen=True, slots=True)
class LayerChange:
    """How an adapter changes the weight of one layer.

    Attributes:
        kind: `LOW_RANK`, `LOHA`, `LOKR` or `FULL`.
        keys: Part -> key in the file.
        rank: Of the factors; 0 where there are none.
        scale: What the product of the factors is multiplied by.
    """

    kind: str
    keys: Mapping[str, str]
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds for one transformer.

    Attributes:
        layout: Whose names the keys have.
        layers: Diffusers' name of a module -> how its weight changes.
        additions: Diffusers' name of a parameter -> the key of what is added to it, and what that is multiplied by.
        total: How many linear layers the model's blocks have.
    """

    layout: str
    layers: Mapping[str, LayerChange]
    additions: Mapping[str, tuple[str, float]]
    total: int

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all tensors that become weights."""
        added = (key for key, _ in self.additions.values())
        return (*(key for change in self.layers.values() for key in change.keys.values()), *added)

    @property
    def covered(self) -> int:
        """How many linear layers of the blocks are changed."""
        return sum(_in_stacks(name) for name in self.layers)

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks that occur, rising."""
        return tuple(sorted({change.rank for change in self.layers.values() if change.rank}))

    @property
    def only_merged(self) -> str | None:
        """Why the adapter can only be merged into the model for a whole run; None: rows may use it, too."""
        if others := [name for name in (*self.layers, *self.additions) if not _in_stacks(name)]:
            return f"it changes {others[0]}, and rows can change the weights of the blocks' linear layers only"
        if kinds := sorted({change.kind for change in self.layers.values()} - {LOW_RANK}):
            return f"it is a {kinds[0]}, whose change of a weight has full rank"
        return None

    def coverage(self) -> str:
        """How much of the model is changed, in words: `300 of 300 layers, rank 32, scale 1.0`."""
        kinds = sorted({change.kind for change in self.layers.values()} - {LOW_RANK})
        words = [f"{self.covered} of {self.total} layers"]
        words += [f"rank {_range(self.ranks)}"] if self.ranks else []
        words += [f"scale {_range(sorted({change.scale for change in self.layers.values()}))}"] if self.layers else []
        words += kinds
        if beside := sum(not name.startswith("blocks.") for name in self.layers):
            words.append(f"{beside} outside the blocks")
        if others := len(self.layers) - self.covered - beside + len(self.additions):
            words.append(f"{others} biases, norms or modulations")
        return ", ".join(words)


def contents_of(header: Header, layers: WanLayers, model: str) -> dict[int | None, Contents]:
    """What a file holds for a model.

    Args:
        header: Of the file.
        layers: Of the model's transformer.
        model: Its name, for messages.

    Returns:
        By the expert that the keys name; None for keys that name none.

    Raises:
        UserError: If it is no adapter, one for another model, one of a kind that is not supported, or has keys that
            nothing read.
    """
    name = f"adapter {header.path}"
    keys, unread = _understood(header, layers, name, model)
    if unread:
        raise UserError(f"{name}: has {_keys(unread)} that no layer of {model} takes: {listed(unread)}; refused, as "
                        "leaving them out would make other pictures than its author saw")  # fmt: skip
    found: dict[int | None, Contents] = {}
    for expert in sorted({key.expert for key in keys}, key=lambda one: -1 if one is None else one):
        own = [key for key in keys if key.expert == expert]
        found[expert] = _contents(own, header, header.adapter_config(expert), layers, name, model)
    return found


def _understood(header: Header, layers: WanLayers, name: str, model: str) -> tuple[list[Key], list[str]]:
    read = {key: understood(key, layers) for key in header.shapes}
    keys = [key for key in read.values() if key is not None]
    unread = [key for key, one in read.items() if one is None]
    if not header.shapes:
        raise UserError(f"{name}: holds no tensors")
    if dora := next((key for key in header.shapes if part_of(key) == DORA), None):
        raise UserError(
            f"{name}: is a DoRA ({dora}), whose scaling depends on the whole weight that it is added to, so that it "
            "is neither a low-rank addition nor the same for FP8: train or extract a plain LoRA instead"
        )
    if not keys and is_whole_model(header.shapes):
        raise UserError(
            f"{name}: holds the weights of a whole model, as FastWan and Turbo publish them, and is no adapter: put "
            "them into a model folder in diffusers layout and give that as --model"
        )
    if not keys:
        raise UserError(
            f"{name}: has no key that belongs to a layer of {model} ({_named(unread)}): it was made for another kind "
            "of model"
        )
    blocks = [int(found.group(1)) for key in unread if (found := _BLOCK.search(key))]
    if blocks and max(blocks) >= layers.blocks:
        raise UserError(
            f"{name}: was made for a model of at least {max(blocks) + 1} blocks, and {model} has {layers.blocks}"
        )
    return keys, unread


def _contents(
    keys: Sequence[Key], header: Header, config: Mapping[str, Any], layers: WanLayers, name: str, model: str
) -> Contents:
    parts: dict[str, dict[str, str]] = {}
    for key in keys:
        own = parts.setdefault(key.target, {})
        if key.part in own:
            raise UserError(f"{name}: says {key.target} twice, as {own[key.part]} and as {key.key}")
        own[key.part] = key.key
    changes: dict[str, LayerChange] = {}
    additions: dict[str, tuple[str, float]] = {}
    for target, own in parts.items():
        change = _change(target, own, header, config)
        if change is not None:
            changes[target] = change
        scale = 1.0 if change is None else change.scale
        if (key_name := own.get(DIFF_MODULATION)) is not None:
            additions[target] = key_name, 1.0
        if (key_name := own.get(DIFF_BIAS)) is not None:
            additions[f"{target}.bias"] = key_name, 1.0
        if (key_name := own.get(UP_BIAS)) is not None:
            additions[f"{target}.bias"] = key_name, scale
        if change is None and ALPHA in own and len(own) == 1:
            raise UserError(f"{name}: has {own[ALPHA]} without what it scales")
    layouts = sorted({key.layout for key in keys})
    contents = Contents(" and ".join(layouts), changes, additions, len(layers.block_layers))
    _check_shapes(contents, header, layers, name, model)
    return contents


def _change(target: str, parts: Mapping[str, str], header: Header, config: Mapping[str, Any]) -> LayerChange | None:
    """How the parts change a layer's weight; None: they do not."""
    weight = {part: key for part, key in parts.items() if part not in (ALPHA, DIFF_BIAS, DIFF_MODULATION, UP_BIAS)}
    if not weight:
        return None
    kind = _kind(weight)
    if kind is None:
        raise UserError(
            f"adapter {header.path}: of {target} it has {', '.join(sorted(weight.values()))}, which is not all that "
            "its change consists of: fetch it again"
        )
    ranks = {
        LOW_RANK: [(DOWN, 0)],
        LOHA: [("hada_w1_b", 0)],
        LOKR: [("lokr_w1_b", 0), ("lokr_w2_b", 0)],
        FULL: [],
    }
    found = [header.shapes[weight[part]][axis] for part, axis in ranks[kind] if part in weight]
    rank = found[0] if found else 0
    return LayerChange(kind, weight, rank, _scale(target, rank, parts.get(ALPHA), header, config) if rank else 1.0)


def _kind(parts: Iterable[str]) -> str | None:
    parts = set(parts)
    if parts == {DOWN, UP}:
        return LOW_RANK
    if parts == set(HADAMARD):
        return LOHA
    factors = [{f"lokr_w{number}"} if f"lokr_w{number}" in parts else {f"lokr_w{number}_a", f"lokr_w{number}_b"}
               for number in (1, 2)]  # fmt: skip
    if parts == factors[0] | factors[1]:
        return LOKR
    return FULL if parts == {DIFF} else None


def _scale(target: str, rank: int, alpha_key: str | None, header: Header, config: Mapping[str, Any]) -> float:
    """Alpha over rank: alpha of the layer's own tensor, else of the adapter's configuration, else the rank."""
    alpha: Any = None
    if alpha_key is not None:
        alpha = header.scalars.get(alpha_key)
        if alpha is None:
            raise UserError(f"adapter {header.path}: {alpha_key} is not one number")
    elif config.get("lora_alpha") is not None:
        alpha = _of_pattern(config.get("alpha_pattern") or {}, target, config["lora_alpha"])
    elif header.metadata.get("ss_network_alpha") not in (None, "", "None"):
        alpha = header.metadata["ss_network_alpha"]
    if alpha is None:
        return 1.0
    try:
        value = float(alpha)
    except ValueError as error:
        raise UserError(f"adapter {header.path}: its alpha is {alpha!r}, which is no number") from error
    if not math.isfinite(value):
        raise UserError(f"adapter {header.path}: its alpha is {alpha!r}, which is no finite number")
    return value / math.sqrt(rank) if config.get("use_rslora") else value / rank


def _of_pattern(pattern: Mapping[str, Any], target: str, default: Any) -> Any:
    """What PEFT's pattern of ends of module names says of a module."""
    for name, value in pattern.items():
        if target == name or target.endswith(f".{name.removeprefix('transformer.')}"):
            return value
    return default


def _check_shapes(contents: Contents, header: Header, layers: WanLayers, name: str, model: str) -> None:
    for target, change in contents.layers.items():
        wanted = layers.shapes.get(f"{target}.weight")
        found = _product_shape(change, header)
        if wanted is None or math.prod(found) != math.prod(wanted) or found[0] != wanted[0]:
            raise UserError(
                _other_model(contents, header, layers, name, model)
                or f"{name}: changes {target} as one of {_sides(found)}, and in {model} it {_is(wanted)}: it was "
                "made for another model"
            )
    for target, (key, _) in contents.additions.items():
        wanted, found = layers.shapes.get(target), header.shapes[key]
        if wanted is None or math.prod(found) != math.prod(wanted):
            raise UserError(
                f"{name}: {key} has {_sides(found)}, and {target} of {model} {_is(wanted)}: it was made for "
                "another model"
            )


def _product_shape(change: LayerChange, header: Header) -> tuple[int, ...]:
    """The shape of the weight that a change is for."""
    shapes = {part: header.shapes[key] for part, key in change.keys.items()}
    if change.kind == FULL:
        return shapes[DIFF]
    if change.kind == LOW_RANK:
        down, up = shapes[DOWN], shapes[UP]
        return (up[0], *down[1:]) if len(up) > 1 and up[1] == down[0] else (0,)
    if change.kind == LOHA:
        return shapes["hada_w1_a"][0], shapes["hada_w1_b"][1]
    sides = []
    for number in (1, 2):
        whole = shapes.get(f"lokr_w{number}")
        sides.append(whole or (shapes[f"lokr_w{number}_a"][0], shapes[f"lokr_w{number}_b"][1]))
    return sides[0][0] * sides[1][0], sides[0][1] * sides[1][1]


def _other_model(contents: Contents, header: Header, layers: WanLayers, name: str, model: str) -> str | None:
    """The message about an adapter of a model of another width; None: it has the same."""
    for target, change in contents.layers.items():
        if target.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            width = _product_shape(change, header)[0]
            if width != layers.width and width:
                known = f" ({WIDTHS[width]})" if width in WIDTHS else ""
                return (
                    f"{name}: was made for a model of width {width}{known}, and {model} has width {layers.width}: "
                    "take the adapter for this model"
                )
    return None


def _in_stacks(name: str) -> bool:
    return name.startswith("blocks.") and ".norm" not in name and not name.endswith((".bias", "scale_shift_table"))


def _range(values: Sequence[float]) -> str:
    shown = [str(value) if isinstance(value, int) else repr(round(value, 6)) for value in values]
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def _is(wanted: Sequence[int] | None) -> str:
    return "is not there" if wanted is None else f"has {_sides(wanted)}"


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _keys(keys: Sequence[str]) -> str:
    return f"{len(keys)} key{'s' if len(keys) > 1 else ''}"


def _named(keys: Sequence[str]) -> str:
    more = f", and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more
