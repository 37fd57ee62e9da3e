"""The kernel that merges an adapter into a weight, beside the same by PyTorch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from wanbatch.pipeline.models import fp8, kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(48, 64, 5), (40, 272, 16), (16, 130, 40)]  # rows, columns and rank, of one tile and of some


def parts(rows: int, columns: int, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    weight[3] = 0
    down = torch.randn(rank, 2 * columns, generator=generator)[:, ::2] * columns**-0.5
    up = torch.randn(rank, rows, generator=generator).t() * 0.3
    up[3] = 0
    return weight.to(DEVICE), down.to(DEVICE), up.to(DEVICE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_is_rounded_once(shape, dtype):
    weight, down, up = parts(*shape, dtype)
    out = torch.full_like(weight, torch.nan)
    kernels.merge_low_rank(weight, down, up, out)
    expected = torch.addmm(weight.float(), up, down).to(dtype)
    if dtype == torch.bfloat16 and DEVICE == "cuda":  # Triton's interpreter cuts numbers instead of rounding them
        assert (out != expected).float().mean() < 0.01
    assert torch.allclose(out.float(), expected.float(), rtol=2e-6 if dtype == torch.float32 else 2**-7, atol=1e-6)
    assert not torch.allclose(out.float(), weight.float(), atol=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_fp8_it_is_what_quantising_the_rounded_sum_gives(shape):
    weight, down, up = parts(*shape, torch.bfloat16)
    wide = torch.empty_like(weight)
    kernels.merge_low_rank(weight, down, up, wide)
    out, scale = torch.empty_like(weight, dtype=fp8.FORMAT), weight.new_empty(len(weight), dtype=torch.float32)
    kernels.merge_low_rank(weight, down, up, out, scale)
    expected, scales = fp8.quantise(wide)
    assert torch.equal(scale, scales[:, 0])
    wrong = (out.float() != expected.float()).float().mean()  # Triton's interpreter halves what is rounded up to 2^n
    assert wrong <= (0.0 if DEVICE == "cuda" else 0.04)
