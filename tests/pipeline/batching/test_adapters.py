"""Rows with adapters in one batch: the arithmetic of merged adapters, and bits that no neighbour decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapter_making import random_pairs
from repeating import meanwhile
from small_models import random_transformer
from stored_adapters import coming

from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.store import AdapterStore, stack_rank
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.samples import Denoised, Sample
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.sampling.solvers import solve
from wanbatch.pipeline.sampling.step_cache import parse

SLOTS = 3
CPU = torch.device("cpu")
RANKS = {"crayon": 4, "ink": 12, "neon": 16, "large": 20}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def adapter(name: str, seed: int = 0) -> AdapterTensors:
    pairs = random_pairs(random_transformer().config, RANKS[name], seed + len(name), size=0.3)
    if name == "ink":  # not every layer has one
        pairs = {layer: pair for layer, pair in pairs.items() if "ffn" not in layer}
    return AdapterTensors({layer: LowRank(down, up, 0.5) for layer, (down, up) in pairs.items()})


@pytest.fixture(scope="module")
def adapters() -> dict[str, AdapterTensors]:
    return {name: adapter(name) for name in RANKS}


@pytest.fixture(scope="module")
def store(adapters) -> AdapterStore:
    return AdapterStore({name: ((tensors, tensors), 1.0) for name, tensors in adapters.items()}, CPU, torch.float32)


@pytest.fixture(params=["added", "merged"])
def expert(request) -> FrameTransformer:
    frame = FrameTransformer(random_transformer()).fuse()
    return frame.merge_rows() if request.param == "merged" else frame


def sample(seed: int, adapters=None, steps: int = 4, guidance: float = 3.0, text: int | None = None) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(8, 4, 6, generator=generator)
    texts = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(seed if text is None else text))
    return Sample(
        id=f"row {seed}",
        start=start,
        solution=solve("unipc", steps, 3.0, 1.0),
        guidance=guidance,
        prompt=texts[0],
        negative=texts[1, :2],
        seed=seed,
        adapters=adapters,
    )


def mixed_rows(store: AdapterStore) -> list[Sample]:
    return [
        sample(1, store.applied([("crayon", 1.0)])),
        sample(2, store.applied([("ink", 1.0)]), steps=6),
        sample(3),
        sample(4, store.applied([("neon", 0.5)]), steps=3),
        sample(5, store.applied([("crayon", 0.7), ("ink", -0.5)])),
        sample(6, store.applied([("large", 1.0)]), steps=5),
        sample(7, store.applied([("crayon", 1.0)]), guidance=1.0),
        sample(8, store.applied([("neon", 1.0)]), steps=5),
        sample(9, guidance=1.0),
    ]


def denoise(experts, rows, text: str = "none", boundary=None, slots=SLOTS) -> dict[str, Denoised]:
    experts = experts if isinstance(experts, list) else [experts]
    denoiser = Denoiser(experts, slots, boundary, parse(text, experts[0].layers))
    return {found.sample.id: found for found in denoiser.run(rows)}


def with_merged(*weighted: tuple[AdapterTensors, float], seed: int = 0, dtype=torch.float32) -> FrameTransformer:
    model = random_transformer(seed)
    for tensors, weight in weighted:
        merge(model, tensors, weight)
    return FrameTransformer(model.to(dtype)).fuse()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


@pytest.mark.parametrize("text", ["none", "taylor:interval=2+gate:interval=2"])
def test_a_row_does_not_depend_on_neighbours_order_or_slot(expert, store, text):
    rows = mixed_rows(store)
    alone = {row.id: denoise(expert, [row], text)[row.id].latent for row in rows}
    for shuffle in range(2):
        order = np.random.default_rng(shuffle).permutation(len(rows))
        together = denoise(expert, [rows[index] for index in order], text)
        assert all(torch.equal(together[row.id].latent, alone[row.id]) for row in rows)


def test_rows_without_adapters_beside_such_with_keep_their_bits(expert, store):
    plain = [sample(3), sample(9, guidance=1.0)]
    beside = denoise(expert, mixed_rows(store))
    assert all(torch.equal(beside[name].latent, found.latent) for name, found in denoise(expert, plain).items())


def test_each_row_is_what_its_merged_adapter_gives(expert, adapters, store):
    found = denoise(expert, mixed_rows(store))
    merged = {
        "row 1": [(adapters["crayon"], 1.0)],
        "row 2": [(adapters["ink"], 1.0)],
        "row 4": [(adapters["neon"], 0.5)],
        "row 5": [(adapters["crayon"], 0.7), (adapters["ink"], -0.5)],
        "row 6": [(adapters["large"], 1.0)],
        "row 7": [(adapters["crayon"], 1.0)],
    }
    for row in mixed_rows(store):
        if row.id in merged:
            plain = replace(row, adapters=None)
            expected = denoise(with_merged(*merged[row.id]), [plain])[row.id].latent
            assert relative(found[row.id].latent, expected) < 1e-5
            assert relative(found[row.id].latent, denoise(expert, [plain])[row.id].latent) > 0.02


def test_one_text_with_two_adapters_has_two_sets_of_keys(expert, adapters, store):
    """Adapters change keys and values of the text, which are kept by the text and the adapter."""
    rows = [sample(1, store.applied([(name, 1.0)]), text=5) for name in ("crayon", "neon")]
    rows[1] = replace(rows[1], id="other", prompt=rows[0].prompt, negative=rows[0].negative)
    found = denoise(expert, rows)
    expected = denoise(with_merged((adapters["neon"], 1.0)), [replace(rows[1], adapters=None)])
    assert relative(found["other"].latent, expected["other"].latent) < 1e-5


def test_two_experts_have_each_their_own_part(expert, adapters):
    second = {"crayon": adapter("crayon", seed=50)}
    store = AdapterStore({"crayon": ((adapters["crayon"], second["crayon"]), 1.0)}, CPU, torch.float32)
    row = sample(1, store.applied([("crayon", 1.0)]), steps=8)
    other = FrameTransformer(random_transformer(5)).fuse()
    found = denoise([expert, other], [row], boundary=0.7)[row.id].latent
    experts = [with_merged((adapters["crayon"], 1.0)), with_merged((second["crayon"], 1.0), seed=5)]
    expected = denoise(experts, [replace(row, adapters=None)], boundary=0.7)[row.id].latent
    assert relative(found, expected) < 1e-5


def test_in_bf16_rows_with_adapters_are_about_as_near_to_float32_as_merged_ones(adapters):
    row = sample(1)
    store = AdapterStore({"neon": ((adapters["neon"],), 1.0)}, CPU, torch.bfloat16)
    one_step = replace(row, solution=solve("euler", 1, 1.0, 1.0))

    def latent(model, adapters=None):
        return denoise(model, [replace(one_step, adapters=adapters)])[row.id].latent

    exact = latent(with_merged((adapters["neon"], 1.0)))
    merged = latent(with_merged((adapters["neon"], 1.0), dtype=torch.bfloat16))
    plain = FrameTransformer(random_transformer().to(torch.bfloat16)).fuse()
    ours = latent(plain, store.applied([("neon", 1.0)]))
    assert relative(ours, exact) < 1.5 * relative(merged, exact)


def test_fp8_layers_have_the_change_added_to_what_they_give(adapters, store):
    """The change is made of the activations before they are rounded to FP8."""
    fp8 = FrameTransformer(random_transformer(num_attention_heads=4, attention_head_dim=24)).fuse().to_float8()
    row = sample(1, store.applied([("neon", 1.0)]))
    found = denoise(fp8, [row])[row.id].latent
    plain = replace(row, adapters=None)
    exact = denoise(with_merged((adapters["neon"], 1.0)), [plain])[row.id].latent
    rounded = denoise(with_merged((adapters["neon"], 1.0)).to_float8(), [plain])[row.id].latent
    assert 0 < relative(found, exact) < 1.2 * relative(rounded, exact)


@pytest.mark.slow  # only the import of the compiler
def test_compiled_blocks_take_adapters(adapters, store):
    row = sample(1, store.applied([("crayon", 1.0)]), steps=1)
    frame = FrameTransformer(random_transformer(num_layers=3)).fuse()
    expected = denoise(frame, [row])[row.id].latent
    calls = []
    for block in frame.blocks:
        block.compile(backend=lambda graph, _: calls.append(graph) or graph, fullgraph=True, dynamic=False)
    torch.testing.assert_close(denoise(frame, [row])[row.id].latent, expected)
    assert calls


def test_the_rank_of_the_stacks_follows_from_the_row_alone(store):
    assert [stack_rank(rank) for rank in (1, 16, 17, 32, 33, 128)] == [16, 16, 32, 32, 64, 128]
    both = store.applied([("crayon", 1.0), ("neon", 1.0)])
    assert (both.rank, store.applied([("neon", 1.0)]).rank) == (32, 16)
    assert store.applied([]) is None


def test_slots_are_filled_when_another_adapter_comes_and_not_at_every_step(expert, adapters, store, monkeypatch):
    filled = []
    joined = AdapterStore.joined
    monkeypatch.setattr(
        AdapterStore, "joined", lambda self, key, expert: filled.append(key) or joined(self, key, expert)
    )
    rows = [sample(number, store.applied([("crayon", 1.0)]), text=1) for number in range(2 * SLOTS)]
    rows = [replace(row, prompt=rows[0].prompt, negative=rows[0].negative) for row in rows]
    denoise(expert, rows)
    assert len(filled) == SLOTS + 1  # and of the text's keys and values


def test_the_device_keeps_what_was_used_last(adapters):
    """Made anew after it had to go, an adapter is the same."""
    both = {name: ((adapters[name],), 1.0) for name in ("crayon", "neon", "large")}
    neon = AdapterStore(both, CPU, torch.float32).joined((("neon", 1.0),), 0)
    size = sum(down.nbytes + up.nbytes for down, up in neon.values())
    store = AdapterStore(both, CPU, torch.float32, device_bytes=int(size * 1.5))
    wanted = {name: store.applied([(name, 1.0)]) for name in both}
    first = {layer: up.clone() for layer, (_, up) in wanted["neon"].pairs(0).items()}
    wanted["crayon"].pairs(0)
    assert [key[0][0] for key, _ in store.resident] == ["neon", "crayon"]
    wanted["large"].pairs(0)
    assert [key[0][0] for key, _ in store.resident] == ["crayon", "large"]
    assert all(torch.equal(up, first[layer]) for layer, (_, up) in wanted["neon"].pairs(0).items())


def test_rows_have_the_same_bits_when_their_adapters_were_brought_before(expert, adapters, store):
    """While rows are computed, another thread brings what the next ones need to a device with room for few."""
    without = denoise(expert, mixed_rows(store))
    size = sum(4 * (pair.down.numel() + pair.up.numel()) for pair in adapters["large"].pairs.values())
    both = {name: ((tensors,), 1.0) for name, tensors in adapters.items()}
    small = AdapterStore(both, CPU, torch.float32, device_bytes=3 * size)

    def prepare(unit: int) -> None:
        small.expect(unit, coming([[("crayon", 1.0)], [("ink", 1.0)], [(list(RANKS)[unit % 4], 0.5)]], f"{unit}"))
        small.wait()
        small.release(unit)

    with meanwhile(prepare, pause=0.002):
        found = [denoise(expert, mixed_rows(small)) for _ in range(2)]
    for again in found:
        assert all(torch.equal(again[name].latent, row.latent) for name, row in without.items())


def test_adapters_that_are_expected_stay_until_each_row_with_them_has_entered(expert, adapters):
    """Nobody releases them here: the rows say themselves that they have entered, for each transformer."""
    store = AdapterStore({"crayon": ((adapters["crayon"], adapter("crayon", seed=50)), 1.0)}, CPU, torch.float32)
    wanted = [("crayon", 1.0)]
    rows = [sample(seed, store.applied(wanted, f"unit {seed}"), steps=8) for seed in range(2 * SLOTS)]
    store.expect("unit", coming([wanted] * len(rows)))
    store.expect("next", coming([wanted], "next"))
    store.wait()
    experts = [expert, FrameTransformer(random_transformer(5)).fuse()]
    held = []
    for _ in Denoiser(experts, SLOTS, 0.7, parse("none", 3)).evaluations(rows):
        held.append(store._residents.held)
    assert held[0] == {((("crayon", 1.0),), 0), ((("crayon", 1.0),), 1)}
    assert store._residents.held == held[0]  # for the next unit
    store.release("next")
    assert not store._residents.wanted  # for this one
