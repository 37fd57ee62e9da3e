"""The layers of a Wan transformer by its configuration: their names, in diffusers and in Wan's own code, and shapes.

No torch, so that adapter files can be checked on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

WIDTHS = {1536: "Wan2.1 1.3B", 3072: "Wan2.2 TI2V-5B", 5120: "Wan 14B"}
"""Widths of the hidden states of the models that are published."""

# Wan's own name -> diffusers' name, inside a block and outside the blocks.
_BLOCK_LAYERS = {
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in zip("qkv", ("to_q", "to_k", "to_v"), strict=True)},
    "self_attn.o": "attn1.to_out.0",
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in zip("qkv", ("to_q", "to_k", "to_v"), strict=True)},
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
_BLOCK_NORMS = {
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "norm3": "norm2",
}
_OUTER_LAYERS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "patch_embedding": "patch_embedding",
}
BLOCK_LAYERS = tuple(_BLOCK_LAYERS.values())
"""The linear layers of a block, by diffusers' names inside it."""
OWN_NAMES: Mapping[str, str] = {theirs: ours for ours, theirs in _BLOCK_LAYERS.items()}
"""Diffusers' name of a linear layer inside a block -> Wan's own, which ComfyUI has, too."""


@dataclass(frozen=True, slots=True)
class WanLayers:
    """What a transformer consists of, as far as adapters are concerned.

    Attributes:
        width: Of the hidden states.
        blocks: How many there are.
        shapes: Of each parameter, by diffusers' name.
        modules: Every known spelling of a module's name -> diffusers' name.
        modulations: Every known spelling of what has a modulation (a block, the head) -> its parameter.
    """

    width: int
    blocks: int
    shapes: Mapping[str, tuple[int, ...]]
    modules: Mapping[str, str]
    modulations: Mapping[str, str]

    @property
    def block_layers(self) -> tuple[str, ...]:
        """The linear layers of all blocks, by diffusers' names."""
        return tuple(f"blocks.{index}.{name}" for index in range(self.blocks) for name in BLOCK_LAYERS)


def wan_layers(config: Mapping[str, Any]) -> WanLayers:
    """The layers of a transformer.

    Args:
        config: Its `config.json`, with every field that the shapes depend on.
    """
    blocks = config["num_layers"]
    own: dict[str, str] = {}  # Wan's own name -> diffusers'
    for index in range(blocks):
        for ours, theirs in (_BLOCK_LAYERS | _BLOCK_NORMS).items():
            own[f"blocks.{index}.{ours}"] = f"blocks.{index}.{theirs}"
    own |= _OUTER_LAYERS
    modules: dict[str, str] = {}
    for ours, theirs in own.items():
        for name in (ours, theirs):
            modules[name] = modules[name.replace(".", "_")] = theirs
    modulations = {f"blocks.{index}": f"blocks.{index}.scale_shift_table" for index in range(blocks)}
    modulations |= {f"blocks_{index}": f"blocks.{index}.scale_shift_table" for index in range(blocks)}
    modulations["head"] = "scale_shift_table"
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return WanLayers(width, blocks, _shapes(config, width), modules, modulations)


def _shapes(config: Mapping[str, Any], width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, *inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, *inputs), (out,)

    patch, inner = tuple(config["patch_size"]), config["ffn_dim"]
    for index in range(config["num_layers"]):
        block = f"blocks.{index}"
        for name in BLOCK_LAYERS:
            if name.startswith("attn"):
                linear(f"{block}.{name}", width, width)
        linear(f"{block}.ffn.net.0.proj", inner, width)
        linear(f"{block}.ffn.net.2", width, inner)
        for name in _BLOCK_NORMS.values():
            shapes[f"{block}.{name}.weight"] = (width,)
        if config.get("cross_attn_norm", True):
            shapes[f"{block}.norm2.bias"] = (width,)
        else:
            del shapes[f"{block}.norm2.weight"]
        shapes[f"{block}.scale_shift_table"] = (1, 6, width)
    embedder = "condition_embedder"
    linear(f"{embedder}.time_embedder.linear_1", width, config["freq_dim"])
    linear(f"{embedder}.time_embedder.linear_2", width, width)
    linear(f"{embedder}.time_proj", 6 * width, width)
    linear(f"{embedder}.text_embedder.linear_1", width, config["text_dim"])
    linear(f"{embedder}.text_embedder.linear_2", width, width)
    linear("patch_embedding", width, config["in_channels"], *patch)
    linear("proj_out", config["out_channels"] * prod(patch), width)
    shapes["scale_shift_table"] = (1, 2, width)
    return shapes
