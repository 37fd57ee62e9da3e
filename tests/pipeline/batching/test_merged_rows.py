"""Rows whose adapters are merged into weights of their slots' own: what a model with the adapter merged makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapter_making import random_pairs
from small_models import random_transformer

from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.slot_weights import SlotWeights
from wanbatch.pipeline.sampling.solvers import solve

CPU = torch.device("cpu")
SLOTS = 2
NAMES = ("crayon", "ink", "neon")
PRECISIONS = {
    "fp32": (torch.float32, Runtime()),
    "bf16": (torch.bfloat16, Runtime()),
    "fp8": (torch.bfloat16, Runtime(fp8=True)),
    "int8": (torch.bfloat16, Runtime(int8=True)),
}


def wan(dtype: torch.dtype):
    return random_transformer(num_attention_heads=4, attention_head_dim=24).to(dtype)


@pytest.fixture(scope="module")
def adapters() -> dict[str, AdapterTensors]:
    config = wan(torch.float32).config
    found = {}
    for seed, name in enumerate(NAMES):
        pairs = random_pairs(config, 4 + 8 * seed, seed, size=0.3)
        if name == "ink":  # in one of three parts of a product, and in none of others
            pairs = {layer: pair for layer, pair in pairs.items() if "ffn" not in layer and "attn1.to_k" not in layer}
        found[name] = AdapterTensors({layer: LowRank(down, up, 0.7) for layer, (down, up) in pairs.items()})
    return found


@pytest.fixture(scope="module")
def store(adapters) -> AdapterStore:
    return AdapterStore({name: ((tensors,), 1.0) for name, tensors in adapters.items()}, CPU, torch.float32)


def row(number: int, applied=None, size: tuple[int, int] = (4, 6), guidance: float = 3.0) -> Sample:
    generator = torch.Generator().manual_seed(number)
    start = torch.randn(8, *size, generator=generator)
    texts = torch.randn(2, 5, 32, generator=generator)
    solution = solve("unipc", 3, 3.0, 1.0)
    return Sample(f"row {number}", start, solution, guidance, texts[0], texts[1, :2], number, adapters=applied)


def rows(store: AdapterStore) -> list[Sample]:
    """More adapters than slots, in batches of three sizes and one without guidance, between rows without any."""
    wanted = [[("crayon", 1.0)], [("ink", 1.0)], [], [("neon", -0.6)], [("crayon", 0.5), ("neon", 0.8)]]
    sizes = [(4, 6), (8, 4), (4, 4)]
    return [
        row(number, store.applied(wanted[number % 5]), sizes[number % 3], 1.0 if number % 7 == 6 else 3.0)
        for number in range(15)
    ]


def latents(frame: FrameTransformer, samples: list[Sample]) -> dict[str, torch.Tensor]:
    return {one.sample.id: one.latent for one in Denoiser([frame], SLOTS).run(samples)}


def made_for_slots(precision: str) -> FrameTransformer:
    dtype, runtime = PRECISIONS[precision]
    return single_frame_transformer(wan(dtype), replace(runtime, merged_rows=True), CPU)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


@pytest.mark.parametrize("precision", ["fp32", "fp8", "int8"])
def test_a_row_is_within_a_thousandth_of_the_merged_adapter(precision, adapters, store):
    dtype, runtime = PRECISIONS[precision]
    model = wan(dtype)
    merge(model, adapters["crayon"], 0.5)
    asked = [row(1, store.applied([("crayon", 0.5)])), row(2, store.applied([("ink", 1.0)]))]
    found = latents(made_for_slots(precision), asked)
    plain = [replace(one, adapters=None) for one in asked]
    expected = latents(single_frame_transformer(model, runtime, CPU), plain)
    without = latents(single_frame_transformer(wan(dtype), runtime, CPU), plain)
    assert relative(found["row 1"], expected["row 1"]) < 1e-3
    assert relative(found["row 1"], without["row 1"]) > 0.02
    assert relative(found["row 2"], expected["row 2"]) > 0.02


def test_in_bf16_a_slot_has_the_weights_of_the_merged_model(adapters, store):
    """But where sums of another order are rounded otherwise. A CPU's products in bf16 depend on their rows."""
    frame, model = made_for_slots("bf16"), wan(torch.bfloat16)
    applied = store.applied([("crayon", 0.5), ("ink", 0.7)])
    assert applied is not None
    slots = frame.adapter_stacks(SLOTS, 16)
    slots.fill(1, applied.pairs(0))
    merge(model, adapters["crayon"], 0.5)
    expected = [block.large_layers() for block in FrameTransformer(model).fuse().blocks]
    differ = []
    for found, block in zip(slots.blocks, expected, strict=True):
        for name, layer in block.items():
            own = found.large_layers()[name].layers
            assert torch.equal(own[0].weight, frame.blocks[len(differ) // 6].large_layers()[name].weight)
            differ.append(float((own[1].weight != layer.weight).float().mean()))
    assert all(0 < share < 1 for share in differ[:2])  # what `ink` changes, too
    slots.fill(1, store.applied([("crayon", 0.5)]).pairs(0))
    differ = [
        float((found.large_layers()[name].layers[1].weight != layer.weight).float().mean())
        for found, block in zip(slots.blocks, expected, strict=True)
        for name, layer in block.items()
    ]
    assert max(differ) < 1e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batches_share_the_slots_and_no_row_shows_it(precision, store):
    """Rows of several batches take turns in the same weights, and each has the bits that it has alone."""
    frame = made_for_slots(precision)
    together = latents(frame, rows(store))
    assert isinstance(frame.adapter_stacks(SLOTS, 16), SlotWeights)
    assert frame.adapter_stacks(SLOTS, 16) is frame.adapter_stacks(SLOTS, 32)
    for one in rows(store):
        assert torch.equal(latents(frame, [one])[one.id], together[one.id])


def test_rows_without_adapters_have_the_bits_of_a_model_that_merges_nothing(store):
    dtype, runtime = PRECISIONS["fp8"]
    plain = [one for one in rows(store) if one.adapters is None]
    expected = latents(single_frame_transformer(wan(dtype), runtime, CPU), plain)
    beside = latents(made_for_slots("fp8"), rows(store))
    assert all(torch.equal(beside[name], latent) for name, latent in expected.items())


def test_a_slot_that_could_not_be_filled_is_filled_again(store, monkeypatch):
    frame = made_for_slots("bf16")
    asked = row(1, store.applied([("neon", 1.0)]))
    expected = latents(frame, [asked])[asked.id]
    latents(frame, [row(2, store.applied([("crayon", 1.0)])), row(3, store.applied([("ink", 1.0)]))])
    fill = SlotWeights.fill

    def fails(self, slot, pairs):
        fill(self, slot, {name: pair for name, pair in pairs.items() if name.startswith("blocks.0")})
        raise torch.OutOfMemoryError("none is left")

    with monkeypatch.context() as patch:
        patch.setattr(SlotWeights, "fill", fails)
        with pytest.raises(torch.OutOfMemoryError):
            latents(frame, [asked])
    assert torch.equal(latents(frame, [asked])[asked.id], expected)


def test_weights_that_were_not_kept_cannot_be_merged_with():
    frame = FrameTransformer(wan(torch.bfloat16)).fuse().to_float8().merge_rows()
    with pytest.raises(ValueError, match="were not kept"):
        frame.adapter_stacks(SLOTS, 16)


@pytest.mark.slow  # only the import of the compiler
def test_compiled_blocks_take_weights_of_slots(store):
    asked = row(1, store.applied([("crayon", 1.0)]))
    frame = made_for_slots("bf16")
    expected = latents(frame, [asked])[asked.id]
    calls: list[object] = []
    compiled = made_for_slots("bf16")
    for block in compiled.adapter_stacks(SLOTS, 16).blocks:
        block.compile(backend=lambda graph, _: calls.append(graph) or graph, fullgraph=True, dynamic=False)
    torch.testing.assert_close(latents(compiled, [asked])[asked.id], expected)
    assert calls
