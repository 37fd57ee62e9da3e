"""Arithmetic computed from a configuration, against torch's own counter and the known figures of the 5B model."""

from __future__ import annotations

import pytest
import torch
from small_models import random_transformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.evaluation import flops
from wanbatch.pipeline.loading import registry, weights
from wanbatch.pipeline.loading.random_model import (
    TEXT,
    TRANSFORMER,
    VAE,
    pipeline_of,
    random_info,
    random_modules,
    save,
    size_of_random,
)
from wanbatch.pipeline.models.dit import FrameTransformer

SMALL = {
    "transformer": {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
    },
    "vae": {"base_dim": 8, "decoder_base_dim": 8},
    "text": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 200},
}


def counted(function, *arguments) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no fused CPU kernel
        function(*arguments)
    return counter.get_total_flops()


def test_the_5b_model_at_1280_by_704():
    """796 TFLOP for 50 guided steps, 8.6 for decoding, 0.4 for a prompt of 40 tokens."""
    picture = flops.picture_flops(TRANSFORMER, tokens=880, keys=112, steps=50, guided=True)
    assert picture == pytest.approx(796e12, rel=0.001)
    assert flops.picture_flops(TRANSFORMER, 880, 112, 4, False) == pytest.approx(32e12, rel=0.01)
    assert flops.vae_flops(VAE, 704, 1280)[1] == pytest.approx(8.6e12, rel=0.01)
    assert flops.text_flops(TEXT, 40) == pytest.approx(0.4e12, rel=0.1)


def test_the_transformer_as_torch_counts_it():
    model = random_transformer()
    frame = FrameTransformer(model)
    context = frame.context(torch.randn(2, 14, 32), torch.tensor([14, 3]), TEXT_TOKENS)
    latents, timestep = torch.randn(2, 8, 8, 12), torch.tensor([500.0, 10.0])
    embedding = counted(frame.modulation, timestep)
    assert counted(frame, latents, timestep, context) - embedding == 2 * flops.transformer_flops(model.config, 24, 16)


def test_the_text_encoder_and_the_vae_as_torch_counts_them():
    modules = random_modules(torch.device("cpu"), torch.float32, **SMALL)
    tokens = torch.ones(1, 40, dtype=torch.long)
    assert counted(modules.text_encoder, tokens) == flops.text_flops(modules.text_encoder.config.to_dict(), 40)
    encode, decode = flops.vae_flops(modules.vae.config, 64, 96)
    assert 0 < encode < decode
    assert flops.vae_flops(modules.vae.config, 128, 96)[1] == pytest.approx(2 * decode, rel=0.02)


def test_the_random_model_is_the_published_one_but_for_its_weights():
    info = random_info()
    assert (info.width, info.height, info.steps, info.guidance, info.shift) == (1280, 704, 50, 5.0, 5.0)
    assert (info.multiple, info.sampler, info.digest) == (32, "unipc", "")
    assert info.layers == 30  # presets and step caches go by it
    modules = random_modules(torch.device("meta"), torch.bfloat16)
    count = sum(parameter.numel() for parameter in modules.transformer.parameters())
    assert count == pytest.approx(5.0e9, rel=0.01)
    assert sum(p.numel() for p in modules.text_encoder.parameters()) == pytest.approx(5.68e9, rel=0.01)
    parameters = dict(modules.transformer.named_parameters())
    assert parameters["blocks.0.ffn.net.2.weight"].dtype == torch.bfloat16
    assert parameters["blocks.0.scale_shift_table"].dtype == torch.float32  # as diffusers loads it


@pytest.mark.parametrize(
    ("size", "expected", "parameters", "tokens"),
    [
        ("a14b", (1280, 720, 40, 4.0, 3.0, 12.0), 14.29e9, 3520),
        ("1.3b", (832, 480, 50, 6.0, None, 8.0), 1.42e9, 3520),
    ],
)
def test_models_of_wan_2_1_s_form_are_the_published_ones_too(size, expected, parameters, tokens):
    info = random_info(size)
    assert (info.width, info.height, info.steps, info.guidance, info.guidance_2, info.shift) == expected
    assert (info.multiple, info.two_experts, size_of_random(info.name)) == (16, size == "a14b", size)
    assert 1280 * 704 // info.multiple**2 == tokens
    modules = random_modules(torch.device("meta"), torch.bfloat16, size)
    experts = [part for part in (modules.transformer, modules.low_noise_transformer) if part is not None]
    assert len(experts) == (2 if size == "a14b" else 1)
    for expert in experts:
        assert sum(parameter.numel() for parameter in expert.parameters()) == pytest.approx(parameters, rel=0.01)
    assert sum(parameter.numel() for parameter in modules.vae.parameters()) == pytest.approx(127e6, rel=0.01)
    assert pipeline_of(modules, size).config.boundary_ratio == (0.875 if size == "a14b" else None)


def test_the_random_model_as_a_folder(tmp_path):
    save(tmp_path / "model", torch.device("cpu"), **SMALL)
    info = registry.find(str(tmp_path / "model"))
    expected = random_info()
    assert (info.width, info.steps, info.shift, info.sampler) == (1280, 50, 5.0, "unipc")
    assert (info.multiple, info.negative_prompt) == (expected.multiple, expected.negative_prompt)
    loaded = weights.load(info, torch.device("cpu"), torch.bfloat16)
    made = random_modules(torch.device("cpu"), torch.bfloat16, **SMALL)
    for name, parameter in loaded.transformer.named_parameters():
        assert torch.equal(parameter, dict(made.transformer.named_parameters())[name]), name
