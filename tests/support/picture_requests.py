"""Requests for pictures, sources for them, and what comes back, for the tests of `wanbatch.pipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline

from wanbatch.pipeline.core.requests import Failed, Request, SourceImage
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry

PLAIN = Request(
    id="a",
    prompt="a big red heart on the left",
    negative_prompt="",
    sources=(),
    creativity=1.0,
    seed=7,
    width=64,
    height=64,
    steps=6,
    guidance=4.0,
    shift=3.0,
    sampler="unipc",
)


def picture(seed: int, width: int = 64, height: int = 64) -> np.ndarray:
    """A smooth colourful picture."""
    waves = np.random.default_rng(seed).uniform(0.02, 0.12, (3, 2))
    y, x = np.mgrid[:height, :width]
    channels = [127 + 120 * np.sin(fx * x + fy * y + seed) for fx, fy in waves]
    return np.stack(channels, axis=-1).astype(np.uint8)


def source(seed: int, weight: float = 1.0) -> SourceImage:
    return SourceImage(key=str(seed), pixels=picture(seed), weight=weight)


def make(wan: Wan, *requests: Request) -> dict[str, np.ndarray]:
    outcomes = list(wan.generate(requests))
    assert not [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    return {outcome.request.id: outcome.pixels for outcome in outcomes}


def made_in_any_order(wan: Wan, rows: Sequence[Request], orders: int = 3) -> dict[str, np.ndarray]:
    """The pixels of rows that are made together, asserted to be the same in some other orders and of each alone."""
    together = make(wan, *rows)
    for shuffle in range(orders):
        order = np.random.default_rng(shuffle).permutation(len(rows))
        again = make(wan, *[rows[index] for index in order])
        assert all(np.array_equal(again[name], together[name]) for name in together)
    for row in rows:
        assert np.array_equal(make(wan, row)[row.id], together[row.id])
    return together


def made_by_diffusers(pipeline: WanPipeline, request: Request) -> np.ndarray:
    """What diffusers' own pipeline makes of a request without sources: uint8 [height, width, 3]."""
    frames = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        num_frames=1,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        guidance_scale_2=request.guidance_2,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="pil",
    ).frames[0]
    return np.asarray(frames[0])


def loaded_twice(folder: Path, slots: int) -> tuple[registry.ModelInfo, Wan, WanPipeline]:
    """What a model folder is, and the model loaded by us and by diffusers."""
    info = registry.find(str(folder))
    pipeline = WanPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return info, Wan.load(info, slots=slots), pipeline


def difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())
