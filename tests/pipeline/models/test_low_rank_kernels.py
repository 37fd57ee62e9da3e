"""Kernels for what adapters of rows add, against plain PyTorch: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from low_rank_layers import (
    BOUND,
    DEVICE,
    DTYPES,
    EMPTY,
    INPUTS,
    OUT,
    SLOTS,
    TOKENS,
    change,
    inputs_and_product,
    interpreted,
    random,
    relative,
    stack,
    term_of,
)

from wanbatch.pipeline.models import fp8
from wanbatch.pipeline.models.adapter_stacks import LayerStack

kernels = pytest.importorskip("wanbatch.pipeline.models.kernels", reason="Triton is not installed")
from wanbatch.pipeline.models.kernels import low_rank, low_rank_gelu, low_rank_norms  # noqa: E402 - Triton is there

RANKS_AND_PARTS = [
    (16, 1), (33, 3), (160, 3), *(interpreted(*both) for both in ((4, 3), (64, 1))),
]  # fmt: skip


one_share = pytest.param("one share", marks=[pytest.mark.slow] if DEVICE == "cpu" else [])


@pytest.fixture(params=[one_share, "several shares"], autouse=True)
def shares(request, monkeypatch):
    """Small tiles, so that sums are made of several shares also here; whole blocks have tiles of one share."""
    if request.param == "several shares":
        small = low_rank.Tiles(rows=16, columns=16, share=32, warps=4, stages=2)
        for module, name in (
            (low_rank, "DOWN"),
            (low_rank, "DOWN_FP8"),
            (low_rank, "ADD"),
            (low_rank, "RESIDUAL"),
            (low_rank_gelu, "GELU"),
            (low_rank_gelu, "MEASURE"),
            (low_rank_gelu, "QUANTISE"),
            (low_rank_norms, "JOINED"),
            (low_rank_norms, "ALONE"),
        ):
            monkeypatch.setattr(module, name, small)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rank", "parts"), RANKS_AND_PARTS)
def test_a_product_with_what_adapters_add(dtype, rank, parts):
    layer = stack(rank, dtype, parts)
    states, product = inputs_and_product(dtype, layer)
    expected = product.float() + change(states, layer)
    found = kernels.add_low_rank(product.clone(), term_of(states, layer))
    assert relative(found, expected) < BOUND[dtype]
    assert torch.equal(found[EMPTY::SLOTS], product[EMPTY::SLOTS])
    assert relative(product, expected) > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_inner_part_of_quantised_inputs_is_that_of_what_they_stand_for(dtype):
    layer = stack(16, dtype)
    rows, scale = fp8.quantise(random(2 * SLOTS * TOKENS, INPUTS, dtype=dtype) * 30)
    term = kernels.low_rank_term(kernels.Activation(rows, scale), *layer, TOKENS)
    states = (rows.float() * scale).unflatten(0, (-1, TOKENS))
    product = random(2 * SLOTS, TOKENS, OUT, dtype=dtype)
    expected = product.float() + change(states, layer)
    assert relative(kernels.add_low_rank(product.clone(), term), expected) < BOUND[dtype]


def test_a_change_made_of_quantised_inputs_is_as_near_to_float32_as_a_quantised_layer_is():
    """The layer's weight is rounded, too; the change's matrices are not."""
    layer = stack(16, torch.float32)
    states = random(2 * SLOTS, TOKENS, INPUTS)
    rows, scale = fp8.quantise(states.flatten(0, 1))
    term = kernels.low_rank_term(kernels.Activation(rows, scale), *layer, TOKENS)
    kept = kernels.low_rank_term(kernels.Activation(states.flatten(0, 1)), *layer, TOKENS)
    nothing, exact = torch.zeros(2 * SLOTS, TOKENS, OUT, device=DEVICE), change(states, layer)
    of_quantised, of_kept = (relative(kernels.add_low_rank(nothing.clone(), one), exact) for one in (term, kept))
    weight = random(OUT, INPUTS, seed=9)
    rounded = fp8.Float8Linear(weight, None).emulated(rows, scale, torch.float32)
    of_layer = relative(rounded, states.flatten(0, 1) @ weight.t())
    assert of_kept < BOUND[torch.float32]
    assert 10 * of_kept < of_quantised < of_layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
def test_a_residual_with_what_adapters_add(dtype, gated):
    layer = stack(16, dtype)
    states, values = inputs_and_product(dtype, layer)
    hidden, gate = random(2 * SLOTS, TOKENS, OUT, dtype=dtype, seed=3), random(2 * SLOTS, 2, OUT, seed=4)[:, 1]
    pending = kernels.PendingResidual(values, gate if gated else None, term_of(states, layer))
    added = values.float() + change(states, layer)
    expected = hidden.float() + (added * gate[:, None] if gated else added)
    assert relative(kernels.add(hidden, pending), expected) < BOUND[dtype]
    scale, shift = random(2 * SLOTS, OUT, seed=5), random(2 * SLOTS, OUT, seed=6)
    found, normed = kernels.add_norm(hidden, pending, scale, shift, 1e-6)
    assert torch.equal(found, kernels.add(hidden, pending))
    wanted = F.layer_norm(found.float(), (OUT,), eps=1e-6) * scale[:, None] + shift[:, None]
    assert relative(normed.values.view_as(found), wanted) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("parts", "rotated"), [(3, True), (1, False)])
def test_norm_and_rotation_with_what_adapters_add(dtype, parts, rotated):
    heads, half = 2, OUT // 4
    layer = stack(16, dtype, parts)
    states, product = inputs_and_product(dtype, layer)
    angles = random(TOKENS, 1, half, seed=9)
    rotary = (angles.cos(), angles.sin()) if rotated else None
    weights = tuple(random(OUT, dtype=dtype, seed=3 + part) for part in range(max(1, parts - 1)))
    whole = product.float() + change(states, layer)
    expected = kernels.norm_rotate(whole, tuple(weight.float() for weight in weights), 1e-5, rotary, heads)
    found = kernels.norm_rotate_low_rank(product, weights, 1e-5, rotary, heads, term_of(states, layer))
    assert len(found) == len(expected) == len(weights)
    assert all(relative(ours, theirs) < BOUND[dtype] for ours, theirs in zip(found, expected, strict=True))
    if parts == 3:
        assert relative(product[..., -OUT:], whole[..., -OUT:]) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rank", "next_rank"), [interpreted(16, 16), (4, 33), (160, 160)])
def test_gelu_between_products_with_what_adapters_add(dtype, rank, next_rank):
    layer, following = stack(rank, dtype), stack(next_rank, dtype, inputs=OUT, out=INPUTS, seed=20)
    states, product = inputs_and_product(dtype, layer)
    inner, term = kernels.gelu_low_rank(product, term_of(states, layer), *following)
    expected = F.gelu(product.float() + change(states, layer), approximate="tanh")
    assert inner.scale is None
    assert relative(inner.values.view_as(product), expected) < BOUND[dtype]
    nothing = torch.zeros(2 * SLOTS, TOKENS, INPUTS, device=DEVICE)
    assert relative(kernels.add_low_rank(nothing, term), change(expected, following)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_for_fp8_has_the_scale_of_its_row(dtype):
    """A row of zeros too; the interpreter rounds some numbers wrongly to FP8, see `test_kernels.py`.

    In bf16 each number of the inner part is off by up to 2**-8 of itself, with either sign; a row's peak is a sum of
    such, and of the product as it is. In float32 a GPU's `tanh.approx` is off by up to 2**-11 (PTX ISA).
    """
    layer, following = stack(16, dtype), stack(16, dtype, inputs=OUT, out=INPUTS, seed=20)
    states, product = inputs_and_product(dtype, layer)
    states[0, 2], product[0, 2] = 0, 0
    inner, term = kernels.gelu_low_rank(product, term_of(states, layer), *following, fp8=True)
    expected = F.gelu(product.float() + change(states, layer), approximate="tanh")
    _, scale = fp8.quantise(expected.flatten(0, 1))
    bound = 2**-8 if dtype == torch.bfloat16 else 2**-11 if DEVICE == "cuda" else 1e-5
    torch.testing.assert_close(inner.scale, scale, rtol=bound, atol=0)
    _, unchanged = fp8.quantise(F.gelu(product.float(), approximate="tanh").flatten(0, 1))
    assert relative(unchanged, scale) > 10 * bound
    restored = (inner.values.float() * inner.scale).view_as(product)
    off = (restored - expected).abs() > 2**-4 * expected.abs() + 0.01 * expected.abs().amax(2, keepdim=True)
    assert float(off.float().mean()) < (1e-3 if DEVICE == "cuda" else 0.03)
    assert not restored[0, 2].any()
    nothing = torch.zeros(2 * SLOTS, TOKENS, INPUTS, device=DEVICE)
    assert relative(kernels.add_low_rank(nothing, term), change(expected, following)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", [interpreted(torch.float32), DTYPES[1]])
def test_a_sequence_has_the_same_bits_in_any_slot_and_beside_any_other(dtype):
    """Also where each slot has one sequence instead of two."""
    rank, heads = 16, 2
    layer, following = stack(rank, dtype, 3), stack(rank, dtype, inputs=OUT, out=OUT, seed=20)
    first = stack(rank, dtype, seed=40)
    states, product = inputs_and_product(dtype, layer)
    inner = random(2 * SLOTS, TOKENS, OUT, dtype=dtype, seed=30)
    weights = (random(OUT, dtype=dtype), random(OUT, dtype=dtype, seed=1))

    def all_of(order: list[int], slots: list[int]) -> list[torch.Tensor]:
        """For the sequences of `order`, in slots of which each has what slot `slots[n]` has."""
        ours, next_one, before = (
            LayerStack(one.down[slots], one.ups[:, slots].contiguous()) for one in (layer, following, first)
        )
        own = product[order].clone()
        query, key = kernels.norm_rotate_low_rank(own, weights, 1e-6, None, heads, term_of(states[order], ours))
        activation, term = kernels.gelu_low_rank(inner[order], term_of(states[order], before), *next_one)
        added = kernels.add(inner[order], kernels.PendingResidual(inner[order], None, term))
        small = kernels.Activation(*fp8.quantise(states[order].flatten(0, 1)))
        quantised, _ = kernels.gelu_low_rank(
            inner[order], kernels.low_rank_term(small, *before, TOKENS), *next_one, fp8=True
        )
        rows = [part.float().unflatten(0, (len(order), TOKENS)) for part in (quantised.values, quantised.scale)]
        return [query, key, own, activation.values.view_as(added), added, *rows]

    together = all_of([0, 1, 2, 3], [0, 1])
    for order, slots in (([3, 0], [1, 0]), ([2], [0])):
        for ours, theirs in zip(all_of(order, slots), together, strict=True):
            assert torch.equal(ours, theirs[order])
