"""What every kernel shares: what goes in and comes out, and how a row is written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanbatch.pipeline.models import fp8 as float8

FORMAT = float8.FORMAT
LARGEST = tl.constexpr(float8.LARGEST)
SMALLEST_PEAK = tl.constexpr(float8.SMALLEST_PEAK)


@dataclass(frozen=True, slots=True)
class LowRankTerm:
    """What adapters of the rows add to a product, in two factors; see `low_rank.py`.

    Attributes:
        low: Float32 [shares, rows, parts * rank], the inner part; the shares are to be added up.
        ups: [parts, slots, out, rank], what it is multiplied by; the parts of a product lie side by side.
    """

    low: Tensor
    ups: Tensor


@dataclass(frozen=True, slots=True)
class PendingResidual:
    """What is still to be added to the hidden states, by the kernel that reads them next.

    Attributes:
        values: [batch, tokens, dim].
        gate: [batch, dim], what the values are multiplied by; None for 1.
        term: What adapters add to the values, before they are multiplied; None for nothing.
    """

    values: Tensor
    gate: Tensor | None = None
    term: LowRankTerm | None = None


@dataclass(frozen=True, slots=True)
class Activation:
    """The input of a linear layer, quantised or not.

    Attributes:
        values: [rows, columns].
        scale: Float32 [rows, 1], what quantised values are to be multiplied by; None if they are not quantised.
    """

    values: Tensor
    scale: Tensor | None = None


def new_activation(rows: int, columns: int, like: Tensor, fp8: bool) -> Activation:
    """An activation for a kernel to fill, like `like` or in FP8."""
    values = like.new_empty(rows, columns, dtype=FORMAT if fp8 else like.dtype)
    return Activation(values, like.new_empty(rows, 1, dtype=torch.float32) if fp8 else None)


def batch_stride(vector: Tensor) -> int:
    """Elements from one batch entry of a [batch, dim] tensor to the next; 0 for a [dim] one."""
    return vector.stride(0) if vector.ndim == 2 else 0


def warps_for(columns: int) -> int:
    """Warps for a program that holds a row; measured on an H200 with rows of 3072 and 14336."""
    return 4 if columns <= 4096 else 8


@triton.jit
def store_row(out, scales, row, columns, offsets, mask, values, fp8: tl.constexpr):
    """Write a row, in FP8 with its scale or as it is; in jitted code."""
    if fp8:
        peak = tl.maximum(tl.max(tl.abs(tl.where(mask, values, 0.0))), SMALLEST_PEAK)
        tl.store(scales + row, peak / LARGEST)
        values = values * (LARGEST / peak)
    tl.store(out + row * columns + offsets, values.to(out.dtype.element_ty), mask=mask)
