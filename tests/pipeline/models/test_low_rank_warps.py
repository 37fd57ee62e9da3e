"""GELU whose warps have rows of their own, against plain PyTorch and the kernels that it takes the place of."""

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
    SLOTS,
    TOKENS,
    change,
    inputs_and_product,
    interpreted,
    relative,
    stack,
    term_of,
)

from wanbatch.pipeline.models import fp8
from wanbatch.pipeline.models.adapter_stacks import LayerStack

kernels = pytest.importorskip("wanbatch.pipeline.models.kernels", reason="Triton is not installed")
from wanbatch.pipeline.models.kernels import low_rank_gelu, low_rank_warps  # noqa: E402 - Triton is there
from wanbatch.pipeline.models.kernels.low_rank_warps import WarpTiles, warp_plan  # noqa: E402

of_gpu = [
    dtype for dtype in DTYPES if dtype is not torch.float32 or DEVICE == "cpu"
]  # others are not for these kernels
# Columns, ranks of both products, tiles: one warp, whose last share is shorter; two rows of dots and ranks that fill
# no width; two widths of one and some of the other.
SHAPES = [
    interpreted(160, 32, 32, WarpTiles(16, 32, 64, 1)),
    (256, 33, 4, WarpTiles(32, 64, 128, 2, 168)),
    interpreted(128, 64, 48, WarpTiles(16, 64, 128, 2)),
    pytest.param(
        14336, 32, 32, WarpTiles(16, 32, 1792, 8, 80),
        marks=pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter takes minutes for rows of full width"),
    ),
]  # fmt: skip


def own_rows(monkeypatch: pytest.MonkeyPatch, tiles: WarpTiles | None) -> None:
    for name in ("GELU_WARPS", "MEASURE_WARPS", "QUANTISE_WARPS"):
        monkeypatch.setattr(low_rank_warps, name, tiles)


def without_others(monkeypatch: pytest.MonkeyPatch, tiles: WarpTiles) -> None:
    """Have these kernels used, and no other."""
    own_rows(monkeypatch, tiles)
    for name in ("_gelu_and_down", "_gelu_quantised"):
        monkeypatch.delattr(low_rank_gelu, name)


def test_steps_are_of_a_power_of_two_or_rows_are_not_for_these_kernels():
    tiles = WarpTiles(16, 64, 1792, 8)
    product = torch.empty(2, 880, 14336, dtype=torch.bfloat16, device="meta")
    plan = warp_plan(tiles, product, 32)
    assert (plan.tiles, plan.grid_rows, plan.shares, plan.steps, plan.widths) == (tiles, 7, 8, 28, 1)
    plan = warp_plan(tiles, product[..., :14304], 33)
    assert (plan.tiles.columns, plan.shares, plan.steps, plan.widths) == (32, 8, 56, 2)
    assert warp_plan(tiles, product[..., :96], 32).steps == 3  # of one share
    assert warp_plan(None, product, 32) is None
    assert warp_plan(tiles, product, 65) is None  # a third piece of the matrices
    assert warp_plan(tiles, product[..., :80], 32) is None  # steps of 16
    assert warp_plan(tiles, torch.empty(1, 1, 2**17, device="meta"), 32) is None


@pytest.mark.parametrize("dtype", of_gpu)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(("columns", "rank", "next_rank", "tiles"), SHAPES)
def test_gelu_and_the_inner_part_of_the_next_product(monkeypatch, dtype, columns, rank, next_rank, tiles, small):
    """Bounds for FP8 are those of `test_low_rank_kernels.py`, where there are reasons for them."""
    layer = stack(rank, dtype, out=columns)
    following = stack(next_rank, dtype, inputs=columns, out=INPUTS, seed=20)
    states, product = inputs_and_product(dtype, layer)
    states[0, 2], product[0, 2] = 0, 0
    term = term_of(states, layer)
    own_rows(monkeypatch, None)
    before, term_before = kernels.gelu_low_rank(product, term, *following, fp8=small)
    without_others(monkeypatch, tiles)
    inner, found = kernels.gelu_low_rank(product, term, *following, fp8=small)

    expected = F.gelu(product.float() + change(states, layer), approximate="tanh")
    nothing = torch.zeros(2 * SLOTS, TOKENS, INPUTS, device=DEVICE)
    assert relative(kernels.add_low_rank(nothing, found), change(expected, following)) < BOUND[dtype]
    assert relative(found.low.sum(0), term_before.low.sum(0)) < BOUND[dtype]
    unchanged = F.gelu(product.float(), approximate="tanh")
    if not small:
        assert inner.scale is None
        assert relative(inner.values.view_as(product), expected) < BOUND[dtype]
        assert relative(inner.values, before.values) < BOUND[dtype]
        assert relative(inner.values.view_as(product)[EMPTY::SLOTS], unchanged[EMPTY::SLOTS]) < BOUND[dtype]
        assert relative(unchanged, expected) > 0.1
        return
    bound = 2**-8 if dtype == torch.bfloat16 else 1e-5
    _, scale = fp8.quantise(expected.flatten(0, 1))
    torch.testing.assert_close(inner.scale, scale, rtol=bound, atol=0)
    torch.testing.assert_close(inner.scale, before.scale, rtol=1e-5 if DEVICE == "cpu" else 2**-11, atol=0)
    assert relative(fp8.quantise(unchanged.flatten(0, 1))[1], scale) > 10 * bound
    same = inner.values.float() == before.values.float()
    assert float(same.float().mean()) > 0.999
    assert not inner.values.float().view_as(product)[0, 2].any()


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has these kernels for float32, too")
def test_float32_on_a_gpu_is_for_the_other_kernels(monkeypatch):
    own_rows(monkeypatch, WarpTiles(16, 32, 64, 1))
    for name in ("gelu_and_down_warps", "gelu_quantised_warps"):
        monkeypatch.delattr(low_rank_gelu, name)
    layer, following = stack(16, torch.float32, out=96), stack(16, torch.float32, inputs=96, out=INPUTS, seed=20)
    states, product = inputs_and_product(torch.float32, layer)
    for small in (False, True):
        kernels.gelu_low_rank(product, term_of(states, layer), *following, fp8=small)


@pytest.mark.parametrize("dtype", of_gpu)
def test_a_row_has_the_same_bits_in_any_slot_and_beside_any_other(monkeypatch, dtype):
    """Also where each slot has one sequence instead of two, and where its sequence ends after it."""
    columns = 96
    without_others(monkeypatch, WarpTiles(16, 32, 64, 2))
    layer, following = stack(16, dtype, out=columns), stack(16, dtype, inputs=columns, out=INPUTS, seed=20)
    states, product = inputs_and_product(dtype, layer)

    def all_of(order: list[int], slots: list[int], tokens: int = TOKENS) -> list[torch.Tensor]:
        """For the sequences of `order`, in slots of which each has what slot `slots[n]` has."""
        first, second = (LayerStack(one.down[slots], one.ups[:, slots].contiguous()) for one in (layer, following))
        own, given = (every[order, :tokens].contiguous() for every in (product, states))
        found = []
        for small in (False, True):
            inner, term = kernels.gelu_low_rank(own, term_of(given, first), *second, fp8=small)
            parts = [inner.values, term.low.sum(0)] if inner.scale is None else [inner.values, inner.scale]
            found += [part.float().unflatten(0, (len(order), tokens)) for part in parts]
        return found

    together = all_of([0, 1, 2, 3], [0, 1])
    for order, slots, tokens in (([1, 0, 3, 2], [1, 0], TOKENS), ([0], [0], TOKENS), ([2, 1], [0, 1], 18)):
        for ours, theirs in zip(all_of(order, slots, tokens), together, strict=True):
            assert torch.equal(ours, theirs[order, :tokens])
