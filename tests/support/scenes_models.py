"""Remedies for converted models and for models whose files are not whole, on the small model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from command_line import GOOD
from remedy_scenes import At, raised, scene
from safetensors.torch import load_file, save_file

from wanbatch.pipeline.loading import reference
from wanbatch.pipeline.loading.converted import CONVERTED_FILE
from wanbatch.pipeline.loading.registry import TINY, find
from wanbatch.pipeline.loading.tokenizer import read_tokenizer
from wanbatch.pipeline.loading.weight_files import stored_tensors
from wanbatch.pipeline.loading.weights import STEMS


@scene
def models_that_were_converted(at: At) -> Iterator[str]:
    at.rows(GOOD)
    at.works("convert", TINY, "fp8", "--precision", "fp8")
    yield at.refused("convert", TINY, "fp8")
    yield at.refused("convert", TINY, "none/bf16")
    at.works("convert", TINY, "bf16")
    yield at.refused("convert", "fp8", "again")
    yield at.refused("plan", "m.jsonl", "--model", "fp8", "--precision", "bf16")
    at.works("plan", "m.jsonl", "--model", "fp8", "--precision", "fp8")
    at.works("plan", "m.jsonl", "--model", TINY, "--precision", "bf16")
    lora = ("--lora", f"ink={next(Path(find().folder, 'adapters').glob('*.safetensors'))}")
    yield at.refused("plan", "m.jsonl", "--model", "bf16", *lora, "--merge", "ink")
    at.works("plan", "m.jsonl", "--model", TINY, *lora, "--merge", "ink")
    at.rows({**GOOD, "style": "ink"})
    yield at.refused("plan", "m.jsonl", "--model", "fp8", "--precision", "fp8", *lora, "--row-adapters", "merged")
    at.works("plan", "m.jsonl", "--model", TINY, "--precision", "fp8", *lora, "--row-adapters", "merged")
    at.works("plan", "m.jsonl", "--model", "fp8", "--precision", "fp8", *lora, "--row-adapters", "added")
    at.rows(GOOD)
    yield raised(lambda: reference.load_transformer(find("bf16"), torch.float32))
    yield at.refused("plan", "m.jsonl", "--engines", "store", "--text-precision", "fp8")
    at.works("plan", "m.jsonl", "--text-precision", "fp8")

    note = Path("bf16", CONVERTED_FILE)
    whole = json.loads(note.read_text())
    for changed in (whole | {"format": -1}, whole | {"precision": "fp4"}, {"format": whole["format"]}):
        note.write_text(json.dumps(changed))
        yield at.refused("plan", "m.jsonl", "--model", "bf16")
    note.write_text(json.dumps(whole))
    file = next(Path("bf16/vae").glob("*.safetensors"))
    save_file({name: values + 1 for name, values in load_file(file).items()}, file)
    yield raised(lambda: find("bf16"))
    shutil.rmtree("bf16")
    at.works("convert", TINY, "bf16")
    find("bf16")


@scene
def models_with_noise_levels_of_their_own(at: At) -> Iterator[str]:
    shutil.copytree(find().folder, "model")
    file, at_first = Path("model/wanbatch.json"), json.loads(Path("model/wanbatch.json").read_text())
    at.rows(GOOD)

    def says(**fields: object) -> None:
        file.write_text(json.dumps({name: one for name, one in at_first.items() if name != "steps"} | fields))

    good = {"sampler": "lcm", "sigmas": [1.0, 0.75]}
    for mistake in ({"sigmas": [0.5, 1.0]}, {"steps": 2}, {"sampler": "lmc"}, {"width": 1}, {"sigma": 1.0}):
        says(**good | mistake)
        yield at.refused("plan", "m.jsonl", "--model", "model")
    says(**good)
    at.works("plan", "m.jsonl", "--model", "model")
    respace = ("--creativity-steps", "respace")
    told = at.refused("plan", "m.jsonl", "--model", "model", *respace)
    yield told
    at.works("plan", "m.jsonl", "--model", "model", *respace, *re.search(r"give (--steps \d+)", told)[1].split())  # type: ignore[index]
    yield at.refused("tune", "m.jsonl", "--model", "model", "--budget", "psnr>=30")


@scene
def models_whose_files_are_not_whole(at: At) -> Iterator[str]:
    shutil.copytree(find().folder, "model")
    weights, tokenizer = Path("model/vae/diffusion_pytorch_model.safetensors"), Path("model/tokenizer/tokenizer.json")
    whole = weights.read_bytes()

    def read() -> None:
        stored_tensors(Path("model/vae"), STEMS["vae"])

    weights.write_bytes(whole[:-1])
    yield raised(read)
    index = weights.with_name(weights.name + ".index.json")
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    yield raised(read)
    index.unlink()
    weights.write_bytes(whole)
    read()
    tokens = tokenizer.read_bytes()
    tokenizer.write_bytes(tokens[:100])
    yield raised(lambda: read_tokenizer(Path("model/tokenizer")))
    tokenizer.write_bytes(tokens)
    read_tokenizer(Path("model/tokenizer"))
