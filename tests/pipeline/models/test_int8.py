"""INT8 layers: exact products, rows that do not depend on each other, and what they leave of the transformer."""

from __future__ import annotations

import pytest
import torch
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.models import int8
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.int8 import LARGEST, Int8Linear, check_product, int8_linear, multiply, quantise


def test_quantising_rounds_to_whole_numbers_with_each_rows_largest_at_127():
    rows = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 6)[:, None]
    quantised, scale = quantise(rows)
    assert (quantised.dtype, scale.shape) == (torch.int8, (6, 1))
    assert quantised.abs().amax(dim=1).tolist() == [LARGEST] * 6
    torch.testing.assert_close(quantised.float() * scale, rows, rtol=0, atol=float(scale.max()) / 2 * 1.001)


@pytest.mark.parametrize("rows", [1, 16, 31, 200])
def test_products_are_exact_for_any_number_of_rows(rows):
    draw = torch.Generator().manual_seed(rows)
    left, right = (torch.randint(-127, 128, (n, 512), generator=draw, dtype=torch.int8) for n in (rows, 48))
    assert torch.equal(multiply(left, right).long(), left.long() @ right.long().t())


def test_a_row_of_zeros_stays_zero():
    layer = Int8Linear(torch.randn(32, 16), torch.arange(32.0))
    assert torch.equal(layer(torch.zeros(1, 3, 16))[0, 2], torch.arange(32.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_near_and_keeps_shape_and_dtype(dtype):
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48).to(dtype).requires_grad_(False)
    x = (torch.randn(2, 5, 64) * 3).to(dtype)
    ours, theirs = Int8Linear(linear.weight, linear.bias)(x), linear(x)
    assert (ours.shape, ours.dtype) == (theirs.shape, dtype)
    error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
    assert 0.001 < error < 0.02


def test_rows_do_not_depend_on_each_other_nor_on_how_many_there_are():
    torch.manual_seed(0)
    layer, x = Int8Linear(torch.randn(48, 64), None), torch.randn(40, 64)
    other = x.clone()
    other[1:] *= 100
    assert torch.equal(layer(x)[0], layer(other)[0])
    assert torch.equal(layer(x)[0], layer(x[:1])[0])


def test_the_transformer_stays_near_and_frees_its_weights():
    torch.manual_seed(0)
    latents, timestep = torch.randn(2, 8, 4, 6), torch.tensor([700.0, 100.0])
    embeds, lengths = torch.randn(2, 6, 32), torch.tensor([6, 6])

    def made(runtime: Runtime) -> tuple[FrameTransformer, torch.Tensor]:
        frame = single_frame_transformer(random_transformer(0), runtime, torch.device("cpu"))
        return frame, frame(latents, timestep, frame.context(embeds, lengths, TEXT_TOKENS))

    _, before = made(Runtime())
    frame, after = made(Runtime(int8=True))
    error = float((after - before).norm() / before.norm())
    assert 0.0005 < error < 0.05
    block = frame.blocks[0]
    assert block.qkv_weight is None
    assert {part.weight.dtype for part in block.modules() if isinstance(part, Int8Linear)} == {torch.int8}
    assert sum(isinstance(part, Int8Linear) for part in block.modules()) == 6


def test_a_device_that_multiplies_wrongly_or_not_at_all_is_refused(monkeypatch):
    check_product(torch.device("cpu"))
    right = multiply
    monkeypatch.setattr(int8, "multiply", lambda rows, weight: right(rows, weight) + 1)
    with pytest.raises(UserError, match="multiplies wrongly in INT8: use --precision bf16"):
        check_product(torch.device("cpu"))

    def fails(rows, weight):
        raise RuntimeError("CUDA error: not supported")

    monkeypatch.setattr(int8, "multiply", fails)
    with pytest.raises(UserError, match="cannot multiply in INT8"):
        check_product(torch.device("cpu"))


def test_sizes_that_no_gpu_takes_are_refused():
    with pytest.raises(UserError, match="multiples of 8"):
        int8_linear(torch.randn(12, 16), None)
