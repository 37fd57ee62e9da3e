"""Layouts of adapter files: what each key of one means. No torch.

Trainers write the same arithmetic under many names. A key has a prefix (the trainer's name for the model), the name
of a module (diffusers' or Wan's own, with dots or joined by underscores), and a suffix that says which part of the
adapter the tensor is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from wanbatch.pipeline.adapters.wan_layers import WanLayers

DOWN, UP, UP_BIAS, ALPHA = "down", "up", "up_bias", "alpha"
DIFF, DIFF_BIAS, DIFF_MODULATION = "diff", "diff_b", "diff_m"
HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
DORA = "dora"

_SUFFIXES = tuple(
    (re.compile(pattern + "$"), part)
    for pattern, part in (
        (r"\.lora_A(\.[^.]+)?\.weight", DOWN),
        (r"\.lora_A", DOWN),
        (r"\.lora_B(\.[^.]+)?\.weight", UP),
        (r"\.lora_B(\.[^.]+)?\.bias", UP_BIAS),
        (r"\.lora_B", UP),
        (r"\.lora_down\.weight", DOWN),
        (r"\.lora_up\.weight", UP),
        (r"[._]lora\.down\.weight", DOWN),
        (r"[._]lora\.up\.weight", UP),
        (r"\.lora_linear_layer\.down\.weight", DOWN),
        (r"\.lora_linear_layer\.up\.weight", UP),
        (r"\.alpha", ALPHA),
        (r"\.diff", DIFF),
        (r"\.diff_b", DIFF_BIAS),
        (r"\.diff_m", DIFF_MODULATION),
        (r"\.dora_scale", DORA),
        (r"\.lora_magnitude_vector(\.[^.]+)?(\.weight)?", DORA),
        *((rf"\.{name}", name) for name in (*HADAMARD, *KRONECKER)),
    )
)
_PREFIXES = tuple(
    (re.compile("^" + pattern), layout)
    for pattern, layout in (
        (
            r"base_model\.model\.(?:(?:transformer|diffusion_model|model)\.)?(?:transformer_(?P<expert>[12])\.)?",
            "PEFT",
        ),
        (r"transformer(?P<second>_2)?\.(?!transformer_)", "diffusers"),
        (r"(?:transformer|diffusion_model)\.transformer_(?P<expert>[12])\.", "ai-toolkit"),
        (r"transformer_(?P<expert>[12])\.", "ai-toolkit"),
        (r"(?:model\.)?diffusion_model\.", "ComfyUI (ai-toolkit, diffusion-pipe, lightx2v)"),
        (r"pipe\.dit(?P<second>2)?\.", "DiffSynth"),
        (r"lora_unet__", "Wan-Fun"),
        (r"lora_unet_", "kohya (musubi-tuner)"),
        (r"lycoris_", "LyCORIS"),
        (r"lora_transformer_", "OneTrainer"),
        (r"", "without a prefix (DiffSynth)"),
    )
)
_WHOLE_WEIGHT = re.compile(r"\.(weight|bias|modulation|scale_shift_table)$")


@dataclass(frozen=True, slots=True)
class Key:
    """What a key of an adapter file means.

    Attributes:
        key: In the file.
        layout: Whose prefix it has.
        expert: Which transformer of A14B it is for: 0 for high noise, 1 for low noise; None: the key does not say.
        target: Diffusers' name of the module; for `DIFF_MODULATION` of the parameter.
        part: Which part of the adapter it is: a constant of this file.
    """

    key: str
    layout: str
    expert: int | None
    target: str
    part: str


def understood(key: str, layers: WanLayers) -> Key | None:
    """What a key means for a model; None if it is not one of an adapter for its layers."""
    for pattern, part in _SUFFIXES:
        if (suffix := pattern.search(key)) is None:
            continue
        names = layers.modulations if part == DIFF_MODULATION else layers.modules
        for prefix, layout in _PREFIXES:
            if (found := prefix.match(key)) is None:
                continue
            if (target := names.get(key[found.end() : suffix.start()])) is not None:
                return Key(key, layout, _expert(found.groupdict()), target, part)
    return None


def is_whole_model(keys: Iterable[str]) -> bool:
    """Whether the keys are those of a model's own weights, not of an adapter."""
    keys = list(keys)
    own = [key for key in keys if _WHOLE_WEIGHT.search(key) and not any(p.search(key) for p, _ in _SUFFIXES)]
    return len(own) > len(keys) / 2


def part_of(key: str) -> str | None:
    """Which part of an adapter a key is by its suffix alone, and None if it is none."""
    return next((part for pattern, part in _SUFFIXES if pattern.search(key)), None)


def _expert(groups: dict[str, str | None]) -> int | None:
    if groups.get("expert") is not None:
        return int(groups["expert"] or 1) - 1
    return 1 if groups.get("second") else None
