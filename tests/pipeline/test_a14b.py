"""A model in the form of Wan2.2 T2V-A14B, from its folder: two experts, two guidances, sizes in steps of 16."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_making import random_pairs, save_adapter
from diffusers import WanPipeline
from picture_requests import PLAIN, difference, loaded_twice, made_by_diffusers, make, source
from small_card import SmallCard, sizes_of
from small_models import save_random_a14b

from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import converting, registry
from wanbatch.pipeline.loading.hosted_weights import size_of
from wanbatch.pipeline.loading.runtime import Runtime

BOUNDARY = 0.875


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory) -> Path:
    return save_random_a14b(tmp_path_factory.mktemp("a14b") / "model", pipeline.components, BOUNDARY)


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


def test_experts_that_take_turns_make_the_same_pictures_and_come_once_a_unit(both, folder, monkeypatch):
    info, wan, _ = both
    sizes = sizes_of(wan)
    card = SmallCard(monkeypatch)
    moving = card.load(folder, sizes["text"] + sizes["high_noise"] + sizes["vae"], slots=2)
    assert str(moving.placement.residency) == "the experts take turns on the device, and with the text encoder"
    assert moving.backends["denoise"] == "eager-float32-offloaded"
    rows = [*requests(info), replace(PLAIN, id="varied", sources=(source(1),), creativity=0.5, shift=info.shift)]
    expected = make(wan, *rows)
    for unit in range(2):
        made = {one.request.id: one for one in moving.generate(rows)}
        assert all(np.array_equal(made[name].pixels, expected[name]) for name in expected)
        moves = sum(one.moves for one in made.values())
        assert moves == (4 if unit == 0 else 2)  # of all parts, then of the experts
    assert make(moving, replace(PLAIN, id="varied", creativity=0.3, sources=(source(2),), shift=info.shift))
    assert card.held.resident[-1] == "low_noise"


def test_adapters_of_both_experts_act_at_their_own_noise_levels(both, folder, tmp_path, monkeypatch):
    """Two files, one for each expert: for rows that name them, beside rows without, also where experts take turns."""
    info, wan, _ = both
    config = json.loads((folder / "transformer" / "config.json").read_text())
    for number, name in enumerate(("high", "low")):
        pairs = random_pairs(config, seed=number, size=0.5)
        save_adapter(tmp_path / f"style_{name}_noise.safetensors", config, pairs, "ai-toolkit")
    file = read_adapter(tmp_path / "style_low_noise.safetensors", ModelLayers.of_folder(folder, "a14b", True))
    rows = requests(info)[:3]
    plain = make(wan, *rows)
    merged = make(Wan.load(info, slots=2, merged=[(file, 1.0)]), *rows)
    of_rows = Wan.load(info, slots=2, adapters={"style": (file, 1.0)})
    named = [replace(row, id=f"{row.id} styled", adapters=(("style", 1.0),)) for row in rows]
    together = make(of_rows, *rows, *named)
    card = SmallCard(monkeypatch)
    sizes = sizes_of(wan)
    moving = card.hold(
        sizes["text"] + sizes["high_noise"] + sizes["vae"],
        lambda: Wan.load(info, slots=2, runtime=Runtime(offload=True), adapters={"style": (file, 1.0)}),
    )
    in_turns = make(moving, *rows, *named)
    for row, styled in zip(rows, named, strict=True):
        assert np.array_equal(together[row.id], plain[row.id])
        assert difference(together[styled.id], merged[row.id]) <= 2
        assert difference(together[styled.id], plain[row.id]) > 20
        assert np.array_equal(in_turns[styled.id], together[styled.id])


def test_a_converted_model_has_both_experts(both, tmp_path):
    info, _, _ = both
    converting.convert(info, str(info.folder), tmp_path / "fp8", "fp8", torch.device("cpu"))
    kept = Wan.load(registry.find(str(tmp_path / "fp8")), dtype="bfloat16", slots=2, runtime=Runtime(fp8=True))
    rounded = Wan.load(info, dtype="bfloat16", slots=2, runtime=Runtime(fp8=True))
    ours, expected = (make(each, *requests(info)[:2]) for each in (kept, rounded))
    assert all(np.array_equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("runtime", [Runtime(fp8=True), Runtime(int8=True)], ids=["fp8", "int8"])
def test_both_experts_have_their_large_layers_in_eight_bits(both, folder, runtime):
    info, wan, _ = both
    rounded = Wan.load(info, slots=2, runtime=runtime)
    for expert, exact in zip(rounded.experts, wan.experts, strict=True):
        assert size_of(expert) < 0.6 * size_of(exact)
    ours, exact = (make(each, *requests(info)[:3]) for each in (rounded, wan))
    for name, pixels in ours.items():
        assert 0 < np.abs(pixels.astype(int) - exact[name].astype(int)).mean() < 12, name


@pytest.mark.parametrize("cache", ["deepcache:interval=2,blocks=2", "taylor:interval=2", "adaptive:threshold=0.3"])
def test_a_step_cache_begins_anew_at_the_boundary(both, cache):
    """Steps at the start, after the boundary and at the end are full; rows keep their bits beside others."""
    info, wan, _ = both
    wan.use_step_cache(cache)
    try:
        rows = requests(info)
        together = {one.request.id: one for one in wan.generate(rows)}
        assert all(np.array_equal(make(wan, row)[row.id], together[row.id].pixels) for row in rows)
        assert all(one.work.steps_cached > 0 for one in together.values())
    finally:
        wan.use_step_cache("none")


def test_rows_of_several_guidances_share_a_batch_and_keep_their_bits(both):
    info, wan, _ = both
    rows = requests(info)
    together = make(wan, *rows)
    for row in rows:
        assert np.array_equal(make(wan, row)[row.id], together[row.id]), row.id
