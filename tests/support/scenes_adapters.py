"""Remedies for adapter files, on the small model that ships with the package."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

from adapter_making import random_pairs, save_adapter
from remedy_scenes import At, raised, scene
from safetensors.torch import load_file, save_file

from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.header import digest_of
from wanbatch.pipeline.loading.registry import find


@scene
def adapters_that_cannot_be_used(at: At) -> Iterator[str]:
    folder = Path(find().folder)
    config = json.loads((folder / "transformer/config.json").read_text())
    layers = ModelLayers.of_config(config, "tiny")
    good = save_adapter(at.folder / "good.safetensors", config, random_pairs(config), "ai-toolkit")
    tensors = load_file(good)
    at.write("a.pt", pickle.dumps({}))
    at.write("half.safetensors", good.read_bytes()[:200])
    save_file(dict(list(tensors.items())[:1]), at.folder / "part.safetensors")
    wide = config | {"num_attention_heads": 2 * config["num_attention_heads"]}
    save_adapter(at.folder / "wide.safetensors", wide, random_pairs(wide), "ai-toolkit")
    named = {
        key.replace("diffusion_model.", f"diffusion_model.transformer_{number}."): value.clone()
        for number in (1, 2)
        for key, value in tensors.items()
    }
    save_file(named, at.folder / "both.safetensors")
    shutil.copy(next((folder / "transformer").glob("*.safetensors")), "whole.safetensors")
    for name in ("none.safetensors", "a.pt", *(f"{name}.safetensors" for name in ("half", "part", "wide", "both"))):
        yield raised(lambda name=name: read_adapter(at.folder / name, layers))
    yield raised(lambda: digest_of(at.folder / "none.safetensors"))
    yield raised(lambda: read_adapter(good, layers, good))
    read_adapter(good, layers)
    yield raised(lambda: read_adapter(at.folder / "whole.safetensors", layers))
    shutil.copytree(folder, "model")
    next((at.folder / "model/transformer").glob("*.safetensors")).unlink()
    shutil.move("whole.safetensors", "model/transformer/diffusion_pytorch_model.safetensors")
    at.rows({"prompt": "x"})
    at.works("plan", "m.jsonl", "--model", "model")
