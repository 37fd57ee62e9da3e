"""GELU and quantisation to FP8."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models.kernels.common import Activation, new_activation, store_row, warps_for


def gelu(states: Tensor) -> Activation:
    """GELU (tanh form) of [rows, columns], quantised to FP8."""
    return _quantised(states, with_gelu=True)


def quantise(states: Tensor) -> Activation:
    """[rows, columns], quantised to FP8."""
    return _quantised(states, with_gelu=False)


def gated_gelu(states: Tensor) -> Tensor:
    """[rows, 2 * columns] -> [rows, columns]: GELU (tanh form) of the first half times the second."""
    rows, columns = states.shape[0], states.shape[1] // 2
    out = states.new_empty(rows, columns)
    block = min(1024, triton.next_power_of_2(columns))
    _gated_gelu[(rows, triton.cdiv(columns, block))](states, out, columns, block=block, num_warps=4)
    return out


def _quantised(states: Tensor, with_gelu: bool) -> Activation:
    rows, columns = states.shape
    result = new_activation(rows, columns, states, fp8=True)
    _quantise[(rows,)](
        states,
        result.values,
        result.scale,
        columns,
        with_gelu=with_gelu,
        quick=states.is_cuda,
        block=triton.next_power_of_2(columns),
        num_warps=warps_for(columns),
    )
    return result


@triton.jit
def _gelu(x):
    """x * Phi(x) in its tanh form; x * (1 + tanh(u)) / 2 = x * sigmoid(2 u)."""
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _quick_gelu(x):
    """The same within 2^-12 of x, by the GPU's own tanh: half the special instructions, which bound the other one.

    Rounding to FP8 is off by up to 2^-4.
    """
    half, u = 0.5 * x, 0.7978845608028654 * (x + 0.044715 * x * x * x)
    tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1)
    return half + half * tanh


@triton.jit
def gelu_tanh(x, quick: tl.constexpr):
    """GELU (tanh form), float32; `quick` where it is quantised next, on a GPU; in jitted code."""
    return _quick_gelu(x) if quick else _gelu(x)


@triton.jit
def _quantise(
    states,
    out,
    row_scales,
    columns,
    with_gelu: tl.constexpr,
    quick: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    mask = offsets < columns
    x = tl.load(states + row * columns + offsets, mask=mask, other=0.0).to(tl.float32)
    if with_gelu:
        x = gelu_tanh(x, quick)
    store_row(out, row_scales, row, columns, offsets, mask, x, True)


@triton.jit
def _gated_gelu(states, out, columns, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * block + tl.arange(0, block)
    mask = offsets < columns
    gate = tl.load(states + row * 2 * columns + offsets, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(states + row * 2 * columns + columns + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * columns + offsets, (_gelu(gate) * value).to(out.dtype.element_ty), mask=mask)
