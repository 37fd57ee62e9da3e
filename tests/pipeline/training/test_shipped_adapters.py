"""The adapters that come with the small model, through what a run uses: the file's reader, merging, and `Wan`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import picture_requests
import pytest
import torch

from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.core.requests import Failed
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.weights import load
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import write_prompts
from wanbatch.pipeline.training.toy.styles import STYLES

INFO = registry.find("tiny")
FOLDER = Path(INFO.folder) / registry.ADAPTERS
LAYERS = ModelLayers.of_folder(INFO.folder, "tiny")
COUNT = 32
SHIPPED_STYLES = [name for name in STYLES if (FOLDER / f"{name}.safetensors").exists()]


def with_adapters(*names: str) -> Wan:
    modules = load(INFO, torch.device("cpu"), torch.float32)
    for name in names:
        (tensors,) = load_tensors(read_adapter(FOLDER / f"{name}.safetensors", LAYERS))
        merge(modules.transformer, tensors)
    return Wan(modules, torch.device("cpu"), 8)


def made(wan: Wan, attributes: torch.Tensor, steps: int, guidance: float, sampler: str) -> torch.Tensor:
    prompts = write_prompts(attributes, seed=42)
    plain = replace(
        picture_requests.PLAIN, negative_prompt="", width=128, height=128, steps=steps, guidance=guidance,
        shift=INFO.shift, sampler=sampler,
    )  # fmt: skip
    requests = [replace(plain, id=f"{i:03d}", seed=i, prompt=prompt) for i, prompt in enumerate(prompts)]
    pictures = {}
    for outcome in wan.generate(requests):
        assert not isinstance(outcome, Failed), outcome
        pictures[outcome.request.id] = outcome.pixels
    return torch.cat([to_model(pictures[request.id]) for request in requests])


@pytest.mark.slow
def test_two_steps_without_guidance_show_what_is_asked_for_and_without_the_adapter_they_do_not():
    attributes = world.sample(COUNT, torch.Generator().manual_seed(41))
    judge = Judge.load()
    found = {}
    for names in (("few-step",), ()):
        pictures = made(with_adapters(*names), attributes, steps=2, guidance=1.0, sampler="euler")
        found[names] = judge.score(pictures, attributes)["all"]
    assert found["few-step",] >= 0.85, found
    assert found[()] <= 0.75, found


@pytest.mark.parametrize("name", SHIPPED_STYLES)
def test_a_style_shows_beside_the_adapter_for_few_steps(name):
    attributes = world.sample(10, torch.Generator().manual_seed(43))
    attributes = attributes[~STYLES[name].shown(attributes)]
    pictures = made(with_adapters("few-step", name), attributes, steps=4, guidance=1.0, sampler="euler")
    read = Judge.load().read(pictures)
    assert STYLES[name].shown(read).float().mean() >= 0.9
    assert STYLES[name].content_right(read, attributes).float().mean() >= 0.7


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_each_can_be_given_to_single_rows_and_says_what_it_is(path):
    adapter = read_adapter(path, LAYERS)
    assert adapter.only_merged is None
    assert all(adapter.metadata[f"modelspec.{said}"] for said in ("title", "license", "date", "architecture"))
    assert adapter.metadata["ss_output_name"] == path.stem
    assert path.stat().st_size <= 3e6
