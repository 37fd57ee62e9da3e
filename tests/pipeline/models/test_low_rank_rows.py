"""Kernels that have whole rows of what adapters change, against plain PyTorch and the kernels of several passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from low_rank_layers import (
    BOUND,
    DEVICE,
    DTYPES,
    EMPTY,
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
from wanbatch.pipeline.models.kernels import low_rank_rows  # noqa: E402 - Triton is there
from wanbatch.pipeline.models.kernels.whole_rows import RowTiles, row_plan  # noqa: E402

on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter takes minutes for rows of full width")
SMALL = RowTiles(64, 2, 1)
HERE = [interpreted(torch.float32), DTYPES[1]]  # on a GPU float32 is for the kernels of several passes
slow_here = [pytest.mark.slow] if DEVICE == "cpu" else []
# Columns, rank, tiles: three chunks of one warp; two of four groups for two warps; one; all of full width.
SHAPES = {
    "three chunks": interpreted(96, 16, RowTiles(64, 4, 0)),
    "two chunks": pytest.param(256, 33, RowTiles(128, 2, 2)),
    "one chunk": interpreted(64, 4, SMALL),
    "full width": pytest.param(3072, 32, RowTiles(256, 8, 1), marks=on_gpu),
}


def with_shapes(ways: dict[str, tuple], here: set[tuple[str, str]]) -> list:
    """Every way in every shape; in the interpreter all of both, but few pairs unless slow tests run."""
    return [
        pytest.param(*shape.values, *way, marks=[*shape.marks, *([] if (name, of) in here else slow_here)],
                     id=f"{name}, {of}")
        for name, shape in SHAPES.items() for of, way in ways.items()
    ]  # fmt: skip


RESIDUALS = with_shapes(
    {"gated": (True, True, False), "for FP8": (True, True, True), "plain": (False, False, False)},
    {("three chunks", "for FP8"), ("two chunks", "plain"), ("one chunk", "gated")},
)
ROTATIONS = with_shapes(
    {"of three": (3, True), "of one": (1, False)},
    {("three chunks", "of three"), ("two chunks", "of one"), ("one chunk", "of three")},
)


def whole_rows(monkeypatch: pytest.MonkeyPatch, tiles: RowTiles | None) -> None:
    for name in ("RESIDUAL_ROWS", "JOINED_ROWS", "ALONE_ROWS"):
        monkeypatch.setattr(low_rank_rows, name, tiles)


def test_rows_are_cut_into_chunks_of_a_power_of_two_or_are_not_for_these_kernels():
    tiles, bf16 = RowTiles(256, 8, 1), torch.empty(0, dtype=torch.bfloat16)
    plan = row_plan(tiles, 3072, 32, bf16)
    assert (plan.tiles, plan.chunks, plan.widths) == (tiles, 12, 1)
    assert row_plan(RowTiles(1024, 16, 1), 1536, 33, bf16).tiles.columns == 512
    assert row_plan(RowTiles(1024, 16, 1), 1536, 33, bf16).widths == 2
    assert row_plan(tiles, 96, 16, bf16).tiles == RowTiles(32, 1, 1)  # one warp has all 32 columns
    assert row_plan(None, 3072, 32, bf16) is None
    assert row_plan(tiles, 80, 16, bf16) is None  # chunks of 16
    assert row_plan(tiles, 3072, 65, bf16) is None  # a third piece of the matrices
    assert row_plan(RowTiles(1024, 16, 1), 5120, 32, bf16) is None  # more than half of the registers
    assert row_plan(RowTiles(128, 4, 1), 3072, 32, bf16) is None  # 24 chunks


@pytest.mark.parametrize("dtype", HERE)
@pytest.mark.parametrize(("dim", "rank", "tiles", "gated", "centred", "small"), RESIDUALS)
def test_a_residual_and_the_norm_after_it(monkeypatch, dtype, dim, rank, tiles, gated, centred, small):
    if dim * dtype.itemsize > 2 * 3072:
        pytest.skip("float32 rows of this width are not for these kernels")
    layer = stack(rank, dtype, out=dim)
    states, values = inputs_and_product(dtype, layer)
    hidden, gate = random(2 * SLOTS, TOKENS, dim, dtype=dtype, seed=3), random(2 * SLOTS, 2, dim, seed=4)[:, 1]
    term = term_of(states, layer)
    pending = kernels.PendingResidual(values, gate if gated else None, term)
    scale, shift = random(2 * SLOTS, dim, seed=5), random(2 * SLOTS, dim, seed=6)
    if not gated:
        scale, shift = scale[0].to(dtype), None
    how = {"centred": centred, "modulated": gated, "fp8": small}
    whole_rows(monkeypatch, None)
    before, normed_before = kernels.add_norm(hidden, pending, scale, shift, 1e-6, **how)
    whole_rows(monkeypatch, tiles)
    monkeypatch.delattr("wanbatch.pipeline.models.kernels.norms.add_residual")  # which is not to be used
    found, normed = kernels.add_norm(hidden, pending, scale, shift, 1e-6, **how)

    added = values.float() + change(states, layer)
    expected = hidden.float() + (added * gate[:, None] if gated else added)
    assert relative(found, expected) < BOUND[dtype]
    assert relative(found, before) < BOUND[dtype]
    of_none, _ = kernels.add_norm(hidden, kernels.PendingResidual(values, pending.gate), scale, shift, 1e-6, **how)
    assert torch.equal(found[EMPTY::SLOTS], of_none[EMPTY::SLOTS])
    assert relative(of_none, found) > 0.1
    x = found.float()
    x = F.layer_norm(x, (dim,), eps=1e-6) if centred else F.rms_norm(x, (dim,), eps=1e-6)
    wanted = x * (1 + scale[:, None]) + shift[:, None] if gated else x * scale.float()
    if small:
        _, row_scale = fp8.quantise(wanted.flatten(0, 1))
        torch.testing.assert_close(normed.scale, row_scale, rtol=1e-5, atol=0)
        same = normed.values.float() == normed_before.values.float()
        assert dtype == torch.bfloat16 or float(same.float().mean()) > 0.999
        restored = (normed.values.float() * normed.scale).view_as(wanted)
        assert relative(restored, wanted) < (0.05 if DEVICE == "cuda" else 0.1)
    else:
        assert relative(normed.values.view_as(found), wanted) < BOUND[dtype]
        assert relative(normed.values, normed_before.values) < BOUND[dtype]


@pytest.mark.parametrize("dtype", HERE)
@pytest.mark.parametrize(("dim", "rank", "tiles", "parts", "rotated"), ROTATIONS)
def test_norm_and_rotation(monkeypatch, dtype, dim, rank, tiles, parts, rotated):
    if dim * dtype.itemsize > 2 * 3072:
        pytest.skip("float32 rows of this width are not for these kernels")
    heads = 2
    layer = stack(rank, dtype, parts, out=dim)
    states, product = inputs_and_product(dtype, layer)
    angles = random(TOKENS, 1, dim // heads // 2, seed=9)
    rotary = (angles.cos(), angles.sin()) if rotated else None
    weights = tuple(random(dim, dtype=dtype, seed=3 + part) for part in range(max(1, parts - 1)))
    term, as_it_was = term_of(states, layer), product.clone()
    whole_rows(monkeypatch, None)
    by_passes = product.clone()
    before = kernels.norm_rotate_low_rank(by_passes, weights, 1e-5, rotary, heads, term)
    whole_rows(monkeypatch, tiles)
    monkeypatch.delattr("wanbatch.pipeline.models.kernels.low_rank_norms.sums_of_squares")  # which is not to be used
    found = kernels.norm_rotate_low_rank(product, weights, 1e-5, rotary, heads, term)

    whole = as_it_was.float() + change(states, layer)
    expected = kernels.norm_rotate(whole, tuple(weight.float() for weight in weights), 1e-5, rotary, heads)
    of_none = kernels.norm_rotate(as_it_was, weights, 1e-5, rotary, heads)
    assert len(found) == len(expected) == len(weights)
    for ours, theirs, passes, none in zip(found, expected, before, of_none, strict=True):
        assert relative(ours, theirs) < BOUND[dtype]
        assert relative(ours, passes) < BOUND[dtype]
        assert relative(ours[EMPTY::SLOTS], none[EMPTY::SLOTS]) < BOUND[dtype]
        assert relative(none, ours) > 0.1
    kept = len(weights) * dim
    assert torch.equal(product[..., :kept], as_it_was[..., :kept])
    if parts == 3:
        assert relative(product[..., kept:], whole[..., kept:]) < BOUND[dtype]
        assert torch.equal(product[EMPTY::SLOTS, :, kept:], as_it_was[EMPTY::SLOTS, :, kept:])


@pytest.mark.parametrize("dtype", HERE)
def test_a_row_has_the_same_bits_in_any_slot_and_beside_any_other(monkeypatch, dtype):
    """Also where each slot has one sequence instead of two, and where its sequence ends after it."""
    dim, heads = 64, 2
    whole_rows(monkeypatch, SMALL)
    layer, last = stack(16, dtype, 3, out=dim), stack(16, dtype, out=dim, seed=40)
    states, product = inputs_and_product(dtype, layer)
    values = random(2 * SLOTS, TOKENS, dim, dtype=dtype, seed=30)
    weights = (random(dim, dtype=dtype), random(dim, dtype=dtype, seed=1))
    scale, shift = random(2 * SLOTS, dim, seed=5), random(2 * SLOTS, dim, seed=6)

    def all_of(order: list[int], slots: list[int], tokens: int = TOKENS) -> list[torch.Tensor]:
        """For the sequences of `order`, in slots of which each has what slot `slots[n]` has."""
        first, second = (LayerStack(one.down[slots], one.ups[:, slots].contiguous()) for one in (layer, last))
        own, given, added = (every[order, :tokens].clone() for every in (product, states, values))
        query, key = kernels.norm_rotate_low_rank(own, weights, 1e-6, None, heads, term_of(given, first))
        pending = kernels.PendingResidual(added, scale[order], term_of(given, second))
        found = [query, key, own]
        for quantised in (False, True):
            hidden, normed = kernels.add_norm(added, pending, scale[order], shift[order], 1e-6, fp8=quantised)
            found += [hidden, normed.values.float().view_as(hidden)]
        return found

    together = all_of([0, 1, 2, 3], [0, 1])
    for order, slots, tokens in (([3, 0], [1, 0], TOKENS), ([2], [0], 18)):
        for ours, theirs in zip(all_of(order, slots, tokens), together, strict=True):
            assert torch.equal(ours, theirs[order, :tokens])
