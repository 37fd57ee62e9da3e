"""Adapter files for small models, in every layout that trainers write, all of the same arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from wanbatch.pipeline.adapters.wan_layers import WanLayers, wan_layers

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Diffusers' name of a module -> down [rank, in] and up [out, rank], of scale 1."""


def random_pairs(config: Mapping[str, Any], rank: int = 4, seed: int = 0, size: float = 0.1) -> Pairs:
    """A low-rank change of every linear layer of the blocks, large enough to be seen."""
    layers, generator = wan_layers(config), torch.Generator().manual_seed(seed)
    pairs = {}
    for name in layers.block_layers:
        out, inputs = layers.shapes[f"{name}.weight"]
        down, up = torch.randn(rank, inputs, generator=generator), torch.randn(out, rank, generator=generator)
        pairs[name] = down * (size / inputs**0.5), up
    return pairs


def own_names(layers: WanLayers) -> dict[str, str]:
    """Diffusers' name of a module -> Wan's own."""
    named: dict[str, str] = {}
    for name, target in layers.modules.items():
        if "." in name and name != target:
            named[target] = name
    return named


@dataclass(frozen=True)
class Layout:
    """How a trainer writes a file: the beginning of keys, their ends, whose names, and where alpha is."""

    prefix: str
    down: str = "lora_A.weight"
    up: str = "lora_B.weight"
    own: bool = True
    joined: bool = False
    alpha: str | None = None  # `tensor` or `header`


LAYOUTS = {
    "diffusers": Layout("transformer.", own=False),
    "diffusers-alpha": Layout("transformer.", own=False, alpha="header"),
    "ai-toolkit": Layout("diffusion_model."),
    "musubi": Layout("lora_unet_", "lora_down.weight", "lora_up.weight", joined=True, alpha="tensor"),
    "wan-fun": Layout("lora_unet__", "lora_down.weight", "lora_up.weight", joined=True, alpha="tensor"),
    "diffsynth": Layout("", "lora_A.default.weight", "lora_B.default.weight"),
    "diffsynth-pipe": Layout("pipe.dit.", "lora_A.default.weight", "lora_B.default.weight"),
    "lycoris": Layout("lycoris_", "lora_down.weight", "lora_up.weight", joined=True, alpha="tensor"),
    "onetrainer": Layout(
        "lora_transformer_", "lora_down.weight", "lora_up.weight", own=False, joined=True, alpha="tensor"
    ),
    "peft": Layout("base_model.model."),
    "lightx2v": Layout("diffusion_model.", "lora_down.weight", "lora_up.weight"),
    "lightx2v-alpha": Layout("diffusion_model.", "lora_down.weight", "lora_up.weight", alpha="tensor"),
}


FULL_RANK_KINDS = ("lycoris lokr", "ai-toolkit lokr", "lycoris loha", "musubi loha", "lightx2v diff")
"""Kinds that can hold a low-rank change, too, though what reads them does not know that its rank is low."""


def save_full_rank(path: Path, config: Mapping[str, Any], pairs: Pairs, kind: str) -> Path:
    """Write pairs as one of `FULL_RANK_KINDS`, scaled by alpha where the kind has one."""
    own, tensors = own_names(wan_layers(config)), {}
    for name, (down, up) in pairs.items():
        rank, joined = len(down), own[name].replace(".", "_")
        prefix = {"lycoris": "lycoris_", "musubi": "lora_unet_"}.get(kind.split()[0])
        stem = f"diffusion_model.{own[name]}" if prefix is None else f"{prefix}{joined}"
        if kind.endswith("diff"):
            tensors[f"{stem}.diff"] = up @ down
            continue
        tensors[f"{stem}.alpha"] = torch.tensor(0.5 * rank)
        if kind.endswith("lokr"):
            parts = {"lokr_w1": torch.full((1, 1), 2.0), "lokr_w2_a": up, "lokr_w2_b": down}
        else:
            ones = torch.full((len(up), rank), 2.0 / rank), torch.ones(rank, down.shape[1])
            parts = {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": ones[0], "hada_w2_b": ones[1]}
        tensors |= {f"{stem}.{part}": value for part, value in parts.items()}
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    return path


def save_adapter(path: Path, config: Mapping[str, Any], pairs: Pairs, layout: str = "diffusers", **more: Any) -> Path:
    """Write pairs in a layout; `more`: strings of the header, and tensors."""
    form, layers = LAYOUTS[layout], wan_layers(config)
    own, tensors, metadata = own_names(layers), {}, {}
    for name, (down, up) in pairs.items():
        stem = own[name] if form.own else name
        stem = form.prefix + (stem.replace(".", "_") if form.joined else stem)
        scale = 1.0
        if form.alpha == "tensor":
            scale = 0.5
            tensors[f"{stem}.alpha"] = torch.tensor(scale * len(down))
        elif form.alpha == "header":
            scale = 0.5
            settings = {"r": len(down), "lora_alpha": scale * len(down), "target_modules": list(pairs)}
            named = {f"transformer.{key}": value for key, value in settings.items()}
            metadata["lora_adapter_metadata"] = json.dumps(named)
        tensors[f"{stem}.{form.down}"], tensors[f"{stem}.{form.up}"] = down, up / scale
    tensors |= {name: value for name, value in more.items() if isinstance(value, Tensor)}
    metadata |= {name: value for name, value in more.items() if isinstance(value, str)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, metadata or None)
    return path
