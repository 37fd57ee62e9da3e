"""The small trained model through `Wan`: does it make what it is asked for, and does creativity do what it says?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import picture_requests
import pytest
import torch
from diffusers import WanPipeline

from wanbatch.pipeline.core.conditioning import to_model, to_pixels
from wanbatch.pipeline.core.requests import Failed, Request, SourceImage
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import write_prompts

INFO = registry.find("tiny")
PLAIN = replace(
    picture_requests.PLAIN,
    prompt="a large owl in the center on a striped blue background",
    negative_prompt=INFO.negative_prompt,
    width=INFO.width,
    height=INFO.height,
    steps=INFO.steps,
    guidance=INFO.guidance,
    shift=INFO.shift,
    sampler=INFO.sampler,
)


@pytest.fixture(scope="module")
def tiny() -> Wan:
    return Wan.load(INFO, slots=4)


@pytest.fixture(scope="module")
def pipeline() -> WanPipeline:
    loaded = WanPipeline.from_pretrained(INFO.folder, use_safetensors=True, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def make(wan: Wan, requests: list[Request]) -> list[np.ndarray]:
    made = {}
    for outcome in wan.generate(requests):
        assert not isinstance(outcome, Failed), outcome
        made[outcome.request.id] = outcome.pixels
    return [made[request.id] for request in requests]


def stacked(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.cat([to_model(picture) for picture in pictures])


def render(attributes: torch.Tensor) -> np.ndarray:
    return to_pixels(world.render(attributes, generator=torch.Generator().manual_seed(0))[0])


def test_the_files_are_small_and_safe():
    folder = Path(INFO.folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    beside = (folder / registry.ADAPTERS, folder / registry.SOUND)
    adapters = [path for path in files if any(path.is_relative_to(one) for one in beside)]
    assert sum(path.stat().st_size for path in files if path not in adapters) <= 32e6
    assert all(path.stat().st_size <= 3e6 for path in adapters)
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_the_judge_reads_renders_and_reconstructions(tiny):
    attributes = world.sample(24, torch.Generator().manual_seed(11))
    pictures = world.render(attributes, generator=torch.Generator().manual_seed(12))
    judge = Judge.load()
    assert judge.score(pictures, attributes)["all"] >= 0.99
    with torch.inference_mode():
        restored = torch.cat([tiny.vae.decode(tiny.vae.encode(part)) for part in pictures.split(12)])
    assert judge.score(restored, attributes)["all"] >= 0.95


def test_pictures_show_what_their_prompts_ask_for(tiny):
    """With eight steps, after which more change little, as the model's card has it."""
    attributes = world.sample(4, torch.Generator().manual_seed(21))
    prompts = write_prompts(attributes, seed=22)
    requests = [replace(PLAIN, id=str(i), seed=i, prompt=prompt, steps=8) for i, prompt in enumerate(prompts)]
    scores = Judge.load().score(stacked(make(tiny, requests)), attributes)
    assert scores["all"] >= 0.9, scores


def test_unknown_words_and_odd_prompts_do_no_harm(tiny):
    odd = ["", "???", "ein roter Apfel 🙂", "a LARGE Owl, CENTER, on a striped BLUE background", "x" * 4000]
    rows = [replace(PLAIN, id=str(i), prompt=prompt, steps=1) for i, prompt in enumerate(odd)]
    rows[3] = replace(rows[3], steps=8)
    pictures = make(tiny, rows)
    names = world.describe(Judge.load().read(stacked(pictures[3:4])))[0]
    assert (names["first"], names["layout"], names["background"]) == ("owl", "center", "blue")


@pytest.mark.parametrize(("width", "height", "guidance"), [(160, 128, 3.0), (64, 64, 1.0)])
def test_equals_diffusers(tiny, pipeline, width, height, guidance):
    request = replace(PLAIN, width=width, height=height, guidance=guidance, steps=4)
    frames = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        num_frames=1,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="pil",
    ).frames[0]
    theirs = np.asarray(frames[0]).astype(int)
    assert np.abs(make(tiny, [request])[0].astype(int) - theirs).max() <= 1


def test_distance_to_the_source_grows_with_creativity(tiny):
    attributes = world.sample(4, torch.Generator().manual_seed(31))[1:3]
    sources = [SourceImage(str(i), render(attributes[i : i + 1])) for i in range(2)]
    steps = (0.0, 0.1, 0.5, 1.0)
    requests = [
        replace(PLAIN, id=f"{i}-{c}", seed=i + 1, sources=(source,), creativity=c, steps=8)
        for i, source in enumerate(sources)
        for c in steps
    ]
    made = dict(zip([request.id for request in requests], make(tiny, requests), strict=True))
    distances = [
        np.mean([np.abs(made[f"{i}-{c}"].astype(float) - s.pixels).mean() for i, s in enumerate(sources)])
        for c in steps
    ]
    assert np.all(np.diff(distances) > 0), distances


def test_a_blend_with_all_weight_on_one_equals_that_one(tiny):
    attributes = world.sample(2, torch.Generator().manual_seed(41))
    first, second = (SourceImage(str(i), render(attributes[i : i + 1])) for i in range(2))
    alone = replace(PLAIN, sources=(first,), creativity=0.5, steps=4)
    blended = replace(alone, id="b", sources=(first, replace(second, weight=0.0)))
    one, other = make(tiny, [alone, blended])
    assert np.array_equal(one, other)


def test_pixels_do_not_depend_on_neighbours(tiny):
    small = replace(PLAIN, width=64, height=64)
    rows = [replace(small, id=str(i), seed=i, steps=2 + i % 3, guidance=1.5 + i) for i in range(4)]
    together = make(tiny, rows)
    alone = [make(tiny, [row])[0] for row in rows]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
