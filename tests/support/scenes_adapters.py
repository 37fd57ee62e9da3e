"""Remedies for adapter files, on the small model that ships with the package."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from adapter_making import random_pairs, save_adapter
from remedy_scenes import At, raised, scene
from safetensors.torch import load_file, save_file

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.adapter_files import require_same_files
from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.header import digest_of
from wanbatch.pipeline.adapters.location import locate
from wanbatch.pipeline.loading.registry import find


def good_adapter(at: At, name: str = "good", **more: Any) -> tuple[Path, dict[str, Any]]:
    """An adapter of the small model in a file of this name, and the model's configuration."""
    config = json.loads((Path(find().folder) / "transformer/config.json").read_text())
    return save_adapter(at.folder / f"{name}.safetensors", config, random_pairs(config), "ai-toolkit", **more), config


@scene
def adapters_that_cannot_be_used(at: At) -> Iterator[str]:
    folder = Path(find().folder)
    good, config = good_adapter(at)
    layers = ModelLayers.of_config(config, "tiny")
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


@scene
def adapters_that_rows_name(at: At) -> Iterator[str]:
    good_adapter(at)
    row = {"prompt": "x", "style": "ink"}
    lora = ("--lora", "ink=good.safetensors")
    at.rows(row)
    told = at.refused("plan", "m.jsonl")
    yield told
    known, flag, mapped = re.search(r"known are ([\w-]+).*(--lora \S+)=PATH.*--map (\S+)", told).groups()  # type: ignore
    at.works("plan", "m.jsonl", *f"{flag}=good.safetensors".split())
    at.works("plan", "m.jsonl", "--map", mapped)
    at.write("wanbatch.toml", '[adapters]\nink = "good.safetensors"\n')
    at.works("plan", "m.jsonl")
    (at.folder / "wanbatch.toml").unlink()
    yield at.refused("plan", "m.jsonl", "--lora", "good.safetensors")
    at.rows({"prompt": "x"})
    told = at.works("plan", "m.jsonl", *lora)
    yield told
    assert "no effect" in told
    assert "no effect" not in at.works("plan", "m.jsonl", *lora, "--merge", "ink")
    at.rows(row)
    assert "no effect" not in at.works("plan", "m.jsonl", *lora)
    at.rows({**row, "style": known})
    at.works("plan", "m.jsonl")
    at.rows({**row, "loras": [{"name": "ink", "weight": 0.5}]})
    yield at.refused("plan", "m.jsonl", *lora)
    at.rows({"prompt": "x", "loras": [{"name": "ink", "weight": 1.5}]})
    at.works("plan", "m.jsonl", *lora)
    yield at.refused("plan", "m.jsonl", *lora, "--merge", "ink")
    at.rows({"prompt": "x"})
    at.works("plan", "m.jsonl", *lora, "--merge", "ink")
    yield at.refused("plan", "m.jsonl", *lora, "--merge", "ink,ink")
    yield at.refused("plan", "m.jsonl", *lora, "--lora", "ink=other.safetensors")
    at.works("plan", "m.jsonl", *lora, "--lora", "pen=good.safetensors", "--merge", "ink")


@scene
def adapters_that_change_a_layer_as_a_whole(at: At) -> Iterator[str]:
    _, config = good_adapter(at)
    width = ModelLayers.of_config(config, "tiny").layers.width
    save_file({"diffusion_model.blocks.0.self_attn.q.diff": torch.zeros(width, width)}, "whole.safetensors")
    at.rows({"prompt": "x", "style": "ink"})
    yield at.refused("plan", "m.jsonl", "--lora", "ink=whole.safetensors")
    for layout in ("diffusers", "kohya"):
        yield at.refused("adapters", "convert", "whole.safetensors", f"{layout}.safetensors", "--to", layout)
    at.works("adapters", "convert", "whole.safetensors", "comfyui.safetensors", "--to", "comfyui")
    for out in ("comfyui.safetensors", "a.png/other.safetensors"):
        yield at.refused("adapters", "convert", "whole.safetensors", out, "--to", "comfyui")
    at.works("adapters", "convert", "whole.safetensors", "other.safetensors", "--to", "comfyui")
    yield at.works("adapters", "show", "whole.safetensors")
    at.rows({"prompt": "x"})
    at.works("plan", "m.jsonl", "--lora", "ink=whole.safetensors", "--merge", "ink")


@scene
def places_of_adapters(at: At) -> Iterator[str]:
    good, _ = good_adapter(at)
    (at.folder / "two").mkdir()
    for name in ("a", "b"):
        shutil.copy(good, f"two/{name}.safetensors")
    for wrong in ("https://example.com/a.safetensors", "./none.safetensors", "two"):
        yield (told := raised(lambda wrong=wrong: locate(wrong)))
    locate(re.search(r"like (\S+)", told)[1])  # type: ignore[index]
    yield raised(lambda: locate(str(good), "main"))
    locate(str(good))
    (at.folder / "two/b.safetensors").unlink()
    locate("two")
    shutil.copytree(Path(find().folder), "model", ignore=shutil.ignore_patterns("adapters"))
    yield at.works("adapters", "list", "--model", "model")
    assert "no adapters" not in at.works("adapters", "list", "--model", "model", "--lora", "ink=good.safetensors")
    at.rows({"prompt": "x", "style": "ink"})
    yield at.refused("plan", "m.jsonl", "--model", "model")
    at.works("plan", "m.jsonl", "--model", "model", "--lora", "ink=good.safetensors")


@scene
def adapters_of_other_hosts(at: At) -> Iterator[str]:
    good, _ = good_adapter(at)
    at.rows({"prompt": "x", "style": "ink"})

    def planned():
        return tuple(prepare("m.jsonl", Settings(lora={"ink": str(good)}))[0].adapters.values())

    before, kept = planned(), good.read_bytes()
    good.unlink()
    yield raised(lambda: require_same_files(before, "node7"))
    good.write_bytes(kept)  # as in a folder that is shared
    require_same_files(before, "node7")
    good_adapter(at, alpha=torch.zeros(1))
    yield raised(lambda: require_same_files(before, "node7"))
