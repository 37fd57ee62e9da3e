"""The two experts of Wan2.2 A14B through the same code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from picture_requests import PLAIN, made_by_diffusers
from small_models import random_transformer

from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.modules import Modules


def test_two_experts_share_the_schedule_as_in_diffusers(pipeline):
    second = random_transformer(seed=5)
    modules = Modules(
        pipeline.tokenizer, pipeline.text_encoder, pipeline.transformer, second, boundary=0.7, vae=pipeline.vae
    )
    wan = Wan(modules, torch.device("cpu"), slots=2)
    requests = [
        replace(PLAIN, id="a", prompt="a red heart", seed=3, steps=7, guidance=4.0),
        replace(PLAIN, id="b", prompt="blue star", seed=4, steps=4, guidance=2.0),
        replace(PLAIN, id="c", prompt="green circle", seed=5, steps=9, guidance=2.0),
        replace(PLAIN, id="d", prompt="a star", seed=6, steps=8, guidance=4.0, guidance_2=3.0),
        replace(PLAIN, id="e", prompt="a star", seed=6, steps=8, guidance=4.0, guidance_2=1.0),
        replace(PLAIN, id="f", prompt="a star", seed=6, steps=8, guidance=1.0, guidance_2=3.0),
    ]
    pixels = {outcome.request.id: outcome.pixels for outcome in wan.generate(requests)}

    two = type(pipeline)(**{**pipeline.components, "transformer_2": second}, boundary_ratio=0.7)
    two.set_progress_bar_config(disable=True)
    for request in requests:
        expected = made_by_diffusers(two, request).astype(int)
        assert np.abs(pixels[request.id].astype(int) - expected).max() <= 1
    assert not np.array_equal(pixels["d"], pixels["e"])
