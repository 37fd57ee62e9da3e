"""Two blocks of the small model that ships with the package, and a model in the form of A14B that is made of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from wanbatch.pipeline.loading.registry import ModelInfo, find

BOUNDARY = 0.7
BEYOND = re.compile(r"blocks\.([2-9]|\d\d)\.")


def two_blocks(folder: Path) -> ModelInfo:
    """The small model with two blocks instead of eight; `folder` is made."""
    shutil.copytree(find().folder, folder, ignore=shutil.ignore_patterns("adapters", "sound", "*.py", "__pycache__"))
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = {name: tensor for name, tensor in load_file(file).items() if not BEYOND.match(name)}
    save_file(tensors, file, {"format": "pt"})
    config = json.loads((folder / "transformer/config.json").read_text()) | {"num_layers": 2}
    (folder / "transformer/config.json").write_text(json.dumps(config))
    return find(str(folder))


def two_experts(folder: Path) -> ModelInfo:
    """Two blocks of the small model, and a second transformer, which is another one; `folder` is made."""
    two_blocks(folder)
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    drawn = torch.Generator().manual_seed(1)
    noisy = {name: tensor + 0.02 * torch.randn(tensor.shape, generator=drawn).to(tensor.dtype)
             for name, tensor in tensors.items()}  # fmt: skip
    save_file(noisy, folder / "transformer_2" / file.name, {"format": "pt"})
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": BOUNDARY}
    (folder / "model_index.json").write_text(json.dumps(index))
    return find(str(folder))
