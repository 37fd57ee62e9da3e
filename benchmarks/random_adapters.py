"""Adapters of random numbers for models of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wanbatch.pipeline.adapters.few_step import FewStepUse
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.adapters.wan_layers import wan_layers
from wanbatch.pipeline.loading.config_files import read_json


def random_adapter(config: dict[str, Any], rank: int, seed: int, device: torch.device) -> AdapterTensors:
    """One on all layers of the blocks, whose changes are a tenth as large as the weights; bf16 on the CPU.

    Args:
        config: Of the transformer.
        rank: Of every layer's change.
        seed: Of its numbers.
        device: Where they are drawn.
    """
    layers, generator = wan_layers(config), torch.Generator(device).manual_seed(seed)
    pairs = {}
    for name in layers.block_layers:
        out, inputs = layers.shapes[f"{name}.weight"]
        down = torch.randn(rank, inputs, generator=generator, device=device) * inputs**-0.5
        up = torch.randn(out, rank, generator=generator, device=device) * 0.1 * rank**-0.5
        pairs[name] = LowRank(down.bfloat16().cpu(), up.bfloat16().cpu(), 1.0)
    return AdapterTensors(pairs)


def write_few_step_adapter(model: Path, file: Path, rank: int, use: FewStepUse) -> None:
    """A random adapter whose header says that it is for few steps, as `wanbatch train few-step` writes one.

    Args:
        model: Folder of the model that it is for.
        file: That is written.
        rank: Of every layer's change.
        use: What it says that it was made for.
    """
    config = read_json(model / "transformer" / "config.json", str(model))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = {}
    for name, pair in random_adapter(config, rank, 0, device).pairs.items():
        state[f"transformer.{name}.lora_A.weight"] = pair.down
        state[f"transformer.{name}.lora_B.weight"] = pair.up
    header = {"ss_network_dim": str(rank), "ss_network_alpha": str(rank), "modelspec.title": "random few-step"}
    save_file(state, file, header | use.header())
