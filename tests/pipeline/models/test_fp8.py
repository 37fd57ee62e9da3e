"""FP8 layers: their rounding, and what they leave of the one-frame transformer."""

from __future__ import annotations

import pytest
import torch
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline import generate
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.fp8 import LARGEST, Float8Linear, check_product, quantise


def rounded(value: float) -> float:
    """e4m3 by its definition: 3 bits after the leading one down to 2**-6, then steps of 2**-9; ties to even."""
    magnitude = min(abs(value), 448.0)
    exponent = -6
    while exponent < 8 and magnitude >= 2.0 ** (exponent + 1):
        exponent += 1
    step = 2.0 ** (exponent - 3)
    return round(magnitude / step) * step * (1 if value >= 0 else -1)


def test_quantising_rounds_to_e4m3_with_each_rows_largest_at_448():
    rows = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 6)[:, None]
    quantised, scale = quantise(rows)
    assert (quantised.dtype, scale.shape) == (torch.float8_e4m3fn, (6, 1))
    assert torch.equal(quantised.float().abs().amax(dim=1), torch.full((6,), LARGEST))
    expected = [[rounded(value) for value in row] for row in (rows / scale).tolist()]
    assert torch.equal(quantised.float(), torch.tensor(expected))


def test_a_row_of_zeros_stays_zero():
    quantised, scale = quantise(torch.zeros(2, 16))
    assert not quantised.float().any()
    assert bool(torch.isfinite(scale).all())
    layer = Float8Linear(torch.randn(32, 16), torch.arange(32.0))
    assert torch.equal(layer(torch.zeros(1, 3, 16))[0, 2], torch.arange(32.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_near_and_keeps_shape_and_dtype(dtype):
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48).to(dtype).requires_grad_(False)
    x = (torch.randn(2, 5, 64) * 3).to(dtype)
    ours, theirs = Float8Linear(linear.weight, linear.bias)(x), linear(x)
    assert (ours.shape, ours.dtype) == (theirs.shape, dtype)
    error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
    assert 0.005 < error < 0.06


def test_rows_do_not_depend_on_each_other():
    torch.manual_seed(0)
    layer = Float8Linear(torch.randn(48, 64), None)
    x = torch.randn(4, 64)
    other = x.clone()
    other[1:] *= 100
    assert torch.equal(layer(x)[0], layer(other)[0])


def small(seed: int = 0) -> FrameTransformer:
    return FrameTransformer(random_transformer(seed, attention_head_dim=24, num_attention_heads=4)).fuse()


def test_the_transformer_stays_near_and_frees_its_weights():
    torch.manual_seed(0)
    latents, timestep = torch.randn(2, 8, 4, 6), torch.tensor([700.0, 100.0])
    embeds, lengths = torch.randn(2, 6, 32), torch.tensor([6, 6])
    plain = small()
    before = plain(latents, timestep, plain.context(embeds, lengths, TEXT_TOKENS))
    frame = small().to_float8()
    after = frame(latents, timestep, frame.context(embeds, lengths, TEXT_TOKENS))
    error = float((after - before).norm() / before.norm())
    assert 0.001 < error < 0.1
    block = frame.blocks[0]
    assert sum(isinstance(part, Float8Linear) for part in block.modules()) == 6
    assert [name for name, p in block.named_parameters() if p.ndim == 2] == ["attn2.to_k.weight", "attn2.to_v.weight"]
    assert block.qkv_weight is None


def test_layers_are_replaced_after_fusing_only():
    with pytest.raises(ValueError, match="fuse"):
        FrameTransformer(random_transformer()).to_float8()


def test_a_model_with_odd_layers_is_refused():
    with pytest.raises(UserError, match=r"multiples of 16; use --precision bf16"):
        FrameTransformer(random_transformer(ffn_dim=100)).fuse().to_float8()


def refuses(layer, rows, scale, dtype):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmulAlgoGetHeuristic\nmore")


BAD_PRODUCTS = {
    "refuses": (refuses, r"cannot multiply in FP8 \(CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when .*Heuristic\)"),
    "forgets the scales of rows": (
        lambda layer, rows, scale, dtype: layer.emulated(rows, scale[:1], dtype),
        "multiplies wrongly in FP8",
    ),
    "zeros": (
        lambda layer, rows, scale, dtype: 0 * layer.emulated(rows, scale, dtype),
        r"wrongly in FP8 \(off by 1\)",
    ),
    "not a number": (
        lambda layer, rows, scale, dtype: layer.emulated(rows, scale, dtype) * float("nan"),
        r"wrongly in FP8 \(off by nan\)",
    ),
}


def test_a_good_product_is_let_through():
    check_product(torch.device("cpu"))


@pytest.mark.parametrize("fault", BAD_PRODUCTS)
def test_a_device_that_cannot_multiply_in_fp8_is_found_before_anything_is_loaded(model_folder, monkeypatch, fault):
    """Before, the first evaluation failed: each worker was lost while it warmed up, or made nonsense."""
    product, message = BAD_PRODUCTS[fault]
    monkeypatch.setattr(Float8Linear, "multiply", product)
    monkeypatch.setattr(generate, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=rf"precision fp8: this CPU .*{message}.*: use --precision bf16"):
        Wan.load(registry.find(str(model_folder)), runtime=Runtime(fp8=True))
