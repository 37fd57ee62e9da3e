"""A model in the form of Wan2.2 T2V-A14B, from its folder: two experts, two guidances, sizes in steps of 16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from picture_requests import PLAIN, difference, loaded_twice, made_by_diffusers, make
from small_models import random_transformer

from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry

BOUNDARY = 0.875


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory) -> Path:
    """A small random model whose VAE has a stride of 8, as that of Wan2.1, which A14B has too."""
    torch.manual_seed(3)
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=8,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=torch.linspace(-0.2, 0.2, 8).tolist(),
        latents_std=torch.linspace(0.8, 1.2, 8).tolist(),
    )
    parts = {name: pipeline.components[name] for name in ("tokenizer", "text_encoder", "transformer")}
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=12.0)
    made = WanPipeline(
        **parts,
        vae=vae.eval(),
        scheduler=scheduler,
        transformer_2=random_transformer(seed=5),
        boundary_ratio=BOUNDARY,
    )
    path = tmp_path_factory.mktemp("a14b") / "model"
    made.save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="module")
def both(folder) -> tuple[registry.ModelInfo, Wan, WanPipeline]:
    return loaded_twice(folder, slots=2)


def test_its_defaults_are_those_that_were_published(both):
    info, wan, _ = both
    assert (info.width, info.height, info.multiple, info.steps) == (1280, 720, 16, 40)
    assert (info.guidance, info.guidance_2, info.shift, info.sampler) == (4.0, 3.0, 12.0, "unipc")
    assert (info.width % info.multiple, info.height % info.multiple) == (0, 0)
    assert (len(wan.experts), wan.boundary) == (2, BOUNDARY)


def requests(info: registry.ModelInfo) -> list[Request]:
    """Of several sizes and guidances; each passes the boundary, so that both experts have steps."""
    plain = replace(PLAIN, guidance=info.guidance, guidance_2=info.guidance_2, shift=info.shift, steps=8)
    return [
        plain,
        replace(plain, id="same", guidance_2=None),
        replace(plain, id="oblong", width=48, height=80, seed=3),
        replace(plain, id="strong", guidance_2=7.0, seed=4),
        replace(plain, id="plain", guidance=1.0, seed=5),
    ]


def test_its_pictures_are_those_of_diffusers(both):
    info, wan, pipeline = both
    ours = make(wan, *requests(info))
    for request in requests(info):
        theirs = made_by_diffusers(pipeline, request)
        assert ours[request.id].shape == theirs.shape == (request.height, request.width, 3)
        assert difference(ours[request.id], theirs) <= 1, request.id
        assert theirs.std() > 1
    assert not np.array_equal(ours["a"], ours["same"])  # before, the second guidance could not be given


def test_rows_of_several_guidances_share_a_batch_and_keep_their_bits(both):
    info, wan, _ = both
    rows = requests(info)
    together = make(wan, *rows)
    for row in rows:
        assert np.array_equal(make(wan, row)[row.id], together[row.id]), row.id
