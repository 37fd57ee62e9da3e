"""Weights in FP8 of a text encoder: half the memory, any device, embeddings within a bound, nothing silently."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.random_model import random_modules
from wanbatch.pipeline.loading.residency import TEXT, weight_sizes
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.text_recipe import text_recipe
from wanbatch.pipeline.models.float8_weights import Float8Embedding, Float8Weight

PROMPTS = [
    "a large red heart on a striped purple background",
    "two small blue stars",
    "a night street with many cars",
]
CPU = torch.device("cpu")


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def test_a_layer_multiplies_by_the_rounded_weight_exactly():
    weight, x = drawn(24, 16), drawn(2, 5, 16)
    layer = Float8Weight.of(weight)
    whole = layer.weight.float() * layer.scale[:, None]
    torch.testing.assert_close(layer(x), x @ whole.t())
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert (whole - weight).norm() / weight.norm() < 0.03


def test_joined_layers_have_the_bits_of_their_parts():
    layers, x = tuple(Float8Weight.of(drawn(8, 16) * scale) for scale in (1, 30, 0.01)), drawn(3, 16)
    assert torch.equal(Float8Weight.joined(layers)(x), torch.cat([layer(x) for layer in layers], dim=-1))


def test_an_embedding_gives_rounded_rows():
    weight, tokens = drawn(40000, 8), torch.tensor([[0, 39999], [16384, 7]])
    embedding = Float8Embedding(weight.bfloat16())
    found = embedding(tokens)
    assert (found.shape, found.dtype) == ((2, 2, 8), torch.bfloat16)
    assert ((found.float() - weight[tokens]).norm() / weight[tokens].norm()) < 0.03
    assert embedding.weight.nbytes + embedding.scale.nbytes == 40000 * (8 + 4)


@pytest.fixture(scope="module")
def wans() -> tuple[Wan, Wan]:
    info = registry.find()
    return Wan.load(info), Wan.load(info, runtime=Runtime(text_fp8=True))


def test_embeddings_are_near_and_the_memory_is_less(wans):
    exact, rounded = wans
    assert rounded.backends["text"] == "eager-float32-fp8-weights"
    for text, states in exact.text.encode(PROMPTS).items():
        off = (rounded.text.encode(PROMPTS)[text] - states).norm() / states.norm()
        assert 0.001 < off < 0.04
    sizes = [sum(one.nbytes for one in {*wan.text.model.parameters(), *wan.text.model.buffers()}) for wan in wans]
    assert sizes[1] < 0.3 * sizes[0]  # of 4 bytes
    folder = Path(registry.find().folder)
    full, less = (weight_sizes(folder, "bfloat16", text_fp8=fp8) for fp8 in (False, True))
    assert less[TEXT] * 2 == full[TEXT]
    assert {name: size for name, size in less.items() if name != TEXT}.items() <= full.items()


def test_an_embedding_does_not_depend_on_what_else_is_encoded(wans):
    alone = wans[1].text.encode(PROMPTS[1:2])[PROMPTS[1]]
    wans[1].text.forget()
    assert torch.equal(wans[1].text.encode(PROMPTS)[PROMPTS[1]], alone)


def test_other_bits_have_another_place_in_the_cache():
    info = registry.find()
    assert text_recipe(info, CPU, "float32", 1) != text_recipe(info, CPU, "float32", 1, fp8=True)


def test_what_cannot_have_it_says_so():
    small = {"transformer": {"num_layers": 1, "num_attention_heads": 1, "ffn_dim": 16}, "vae": {"base_dim": 8},
             "text": {"d_model": 32, "d_ff": 16, "num_layers": 1, "vocab_size": 320}}  # fmt: skip
    small["transformer"] |= {"attention_head_dim": 24, "text_dim": 32}
    small["vae"]["decoder_base_dim"] = 8
    modules = random_modules(CPU, torch.float32, **small)
    with pytest.raises(UserError, match="setting text_precision: this runs the model's own text encoder as it is"):
        Wan(modules, CPU, 1, Runtime(text_fp8=True))
