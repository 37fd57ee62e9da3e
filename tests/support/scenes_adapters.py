"""Remedies for adapter files, on the small model that ships with the package."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import torch
from adapter_making import random_pairs, save_adapter
from command_line import GOOD
from remedy_scenes import At, raised, scene
from safetensors.torch import load_file, save_file

from wanbatch.jobs.planning.adapters import find_adapter, half_warnings
from wanbatch.jobs.worker.adapter_files import require_same_file
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
    at.write("page.safetensors", "<!doctype html>")
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
    save_file({key: value * float("nan") for key, value in tensors.items()}, at.folder / "nan.safetensors")
    save_file({key: value.to(torch.int8) for key, value in tensors.items()}, at.folder / "int8.safetensors")
    for name in (
        "none.safetensors",
        "a.pt",
        *(f"{name}.safetensors" for name in ("half", "page", "part", "wide", "both", "nan", "int8")),
    ):
        yield raised(lambda name=name: read_adapter(at.folder / name, layers))
    wrong = {"lora_adapter_metadata": "{'lora_alpha': 8}"}
    save_file(tensors, at.folder / "mangled.safetensors", metadata=wrong)
    yield raised(lambda: read_adapter(at.folder / "mangled.safetensors", layers))
    save_file(tensors, at.folder / "mangled.safetensors", metadata={"lora_adapter_metadata": "[8]"})
    yield raised(lambda: read_adapter(at.folder / "mangled.safetensors", layers))
    yield raised(lambda: digest_of(at.folder / "none.safetensors"))
    yield raised(lambda: read_adapter(good, layers, good))
    read_adapter(good, layers)
    yield raised(lambda: read_adapter(at.folder / "whole.safetensors", layers))
    shutil.copytree(folder, "model")
    next((at.folder / "model/transformer").glob("*.safetensors")).unlink()
    shutil.move("whole.safetensors", "model/transformer/diffusion_pytorch_model.safetensors")
    at.rows({"prompt": "x"})
    at.works("plan", "m.jsonl", "--model", "model")


def _layers() -> tuple[dict, ModelLayers]:
    folder = Path(find().folder)
    config = json.loads((folder / "transformer/config.json").read_text())
    return config, ModelLayers.of_config(config, "tiny")


@scene
def adapters_of_one_of_two_transformers(at: At) -> Iterator[str]:
    config, _ = _layers()
    two = ModelLayers.of_config(config, "a14b", two_experts=True)
    save_adapter(at.folder / "ink_high_noise.safetensors", config, random_pairs(config), "ai-toolkit")

    def warned() -> list[str]:
        return list(half_warnings({"ink": find_adapter("ink", "ink_high_noise.safetensors", two)}))

    (told,) = warned()
    yield told
    name = re.search(r"there is no (\S+) beside", told)[1]  # type: ignore[index]
    shutil.copy("ink_high_noise.safetensors", name)
    assert warned() == []


@scene
def adapters_of_rows_and_of_runs(at: At) -> Iterator[str]:
    config, _ = _layers()
    for seed, name in enumerate(("ink", "neon")):
        save_adapter(at.folder / f"{name}.safetensors", config, random_pairs(config, 2, seed))
    save_file({"diffusion_model.blocks.0.norm3.diff": torch.ones(256)}, at.folder / "norms.safetensors")
    ink, norms = ("--lora", "ink=ink.safetensors"), ("--lora", "norms=norms.safetensors")
    styled, twice = {**GOOD, "style": "ink"}, [{"name": "ink", "weight": 0.5}, {"name": "ink", "weight": 0.25}]

    at.rows(styled)
    yield at.refused("plan", "m.jsonl")
    assert "--lora" not in at.works("plan", "m.jsonl", *ink)
    at.write("wanbatch.toml", '[adapters]\nink = "ink.safetensors"\n')
    at.works("plan", "m.jsonl")
    (at.folder / "wanbatch.toml").unlink()
    yield at.refused("plan", "m.jsonl", *ink, "--merge", "ink")
    at.works("plan", "m.jsonl", *ink)
    yield at.refused("plan", "m.jsonl", "--lora", "ink=ink.safetensors", "--lora", "ink=neon.safetensors")
    at.works("plan", "m.jsonl", "--lora", "ink=ink.safetensors", "--lora", "neon=neon.safetensors")
    yield at.refused("plan", "m.jsonl", "--lora", "ink")
    at.rows({**GOOD, "loras": twice})
    yield at.refused("plan", "m.jsonl", *ink)
    at.rows({**GOOD, "loras": [{"name": "ink", "weight": 0.75}]})
    at.works("plan", "m.jsonl", *ink)
    at.rows({**GOOD, "style": "norms"})
    yield at.refused("plan", "m.jsonl", *norms)
    at.rows(styled)
    own = (*ink, "--row-adapters", "merged")
    at.works("plan", "m.jsonl", *own)
    yield at.refused("plan", "m.jsonl", *own, "--slots", "auto")
    at.works("plan", "m.jsonl", *own, "--slots", "2")
    yield at.refused("plan", "m.jsonl", *own, "--step-cache", "taylor:interval=2")
    at.works("plan", "m.jsonl", *own, "--step-cache", "none")
    at.works("plan", "m.jsonl", *ink, "--row-adapters", "added", "--step-cache", "taylor:interval=2")
    at.rows(GOOD)
    yield at.works("plan", "m.jsonl", "--row-adapters", "merged")
    at.works("plan", "m.jsonl", *norms, "--merge", "norms")
    yield at.refused("plan", "m.jsonl", *ink, "--merge", "ink,ink")
    at.works("plan", "m.jsonl", *ink, "--merge", "ink")
    yield at.works("plan", "m.jsonl", *ink)
    assert "no effect" not in at.works("plan", "m.jsonl", *ink, "--merge", "ink")
    yield at.works("adapters", "show", "norms.safetensors")
    shutil.copytree(find().folder, "model", ignore=shutil.ignore_patterns("adapters"))
    yield at.works("adapters", "list", "--model", "model")
    assert "ink: 80 of 80 layers" in at.works("adapters", "list", "--model", "model", *ink)


@scene
def two_adapters_of_one_name_in_the_settings_file(at: At) -> Iterator[str]:
    config, _ = _layers()
    for seed, name in enumerate(("ink", "other")):
        save_adapter(at.folder / f"{name}.safetensors", config, random_pairs(config, 2, seed))
    manifest = at.rows(GOOD | {"style": "ink"})
    settings = '[adapters]\nink = "ink.safetensors"\nink = "other.safetensors"\n'
    at.write("wanbatch.toml", settings)
    yield at.refused("plan", manifest)
    at.write("wanbatch.toml", settings.replace('ink = "other', 'other = "other'))
    at.works("plan", manifest)
    at.write("wanbatch.toml", "steps = 3\nsteps = 4\n")
    yield at.refused("plan", manifest)
    at.write("wanbatch.toml", 'steps = 4\n[adapters]\nink = "ink.safetensors"\n')
    at.works("plan", manifest)


@scene
def places_of_adapters(at: At) -> Iterator[str]:
    config, layers = _layers()
    for seed, name in enumerate(("ink", "neon")):
        save_adapter(at.folder / f"files/{name}.safetensors", config, random_pairs(config, 2, seed))

    def show(where: str) -> str:
        return at.refused("adapters", "show", where)

    yield show("files")
    at.works("adapters", "show", "files/ink.safetensors")
    yield show("nowhere.safetensors")
    yield show("ftp://example.org/ink.safetensors")
    shutil.copytree("files", "one", ignore=shutil.ignore_patterns("neon*"))
    at.works("adapters", "show", "one")
    yield show("one@v2")
    for offline in (True, False):
        at.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        for name in ("snapshot_download", "HfApi"):
            at.monkeypatch.setattr(huggingface_hub, name, _no_answer)
        yield show("owner/ink")
    at.works("adapters", "show", "one/ink.safetensors")

    adapter = find_adapter("ink", "one/ink.safetensors", layers)
    require_same_file(adapter, "host-1")
    shutil.copy("files/neon.safetensors", "one/ink.safetensors")
    yield raised(lambda: require_same_file(adapter, "host-1"))
    require_same_file(find_adapter("ink", "one/ink.safetensors", layers), "host-1")
    Path("one/ink.safetensors").unlink()
    yield raised(lambda: require_same_file(adapter, "host-1"))


def _no_answer(*_: object, **__: object) -> None:
    raise OSError("no answer")


@scene
def adapters_in_other_layouts(at: At) -> Iterator[str]:
    config, _ = _layers()
    save_adapter(at.folder / "ink.safetensors", config, random_pairs(config, 2))
    save_file({"diffusion_model.blocks.0.norm3.diff": torch.ones(256)}, at.folder / "norms.safetensors")
    at.write("there.safetensors", "")
    command = ("adapters", "convert")
    yield at.refused(*command, "ink.safetensors", "there.safetensors", "--to", "kohya")
    at.works(*command, "ink.safetensors", "new.safetensors", "--to", "kohya")
    yield at.refused(*command, "ink.safetensors", "there.safetensors/new.safetensors", "--to", "kohya")
    for layout in ("diffusers", "kohya"):
        yield at.refused(*command, "norms.safetensors", "norms-2.safetensors", "--to", layout)
    at.works(*command, "norms.safetensors", "norms-2.safetensors", "--to", "comfyui")
