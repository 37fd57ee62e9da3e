"""INT8 linear layers (W8A8): whole numbers with one scale for each row of the input and each row of the weight.

A row's largest magnitude becomes 127. Scales are found anew for each input, as in `fp8.py`, so nothing is calibrated
and a row's result does not depend on the other rows of the batch. The product itself is exact: sums of whole numbers
in 32 bits do not depend on their order. GPUs have had it since Turing, so it is for those without FP8. Nothing here
decides *whether* INT8 is used, but `check_product` finds out whether a device can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wanbatch.errors import UserError

LARGEST = 127
SMALLEST_PEAK = 1e-12  # what a row of zeros is scaled by instead of its largest magnitude
ALIGNMENT = 8  # what cuBLAS wants both sides of the weight to be multiples of
FEWEST_ROWS = 32  # of a product: `torch._int_mm` wants more than 16 on a GPU
INSTEAD = "--precision bf16"
PROBE_SHAPES = ((48, 128), (64, 128), (64,))  # of inputs, weight and bias of the product that is tried


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Float [rows, columns] -> the same in int8, and the scales, float32 [rows, 1], to multiply it with."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / LARGEST
    return (rows.float() / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def rescale(product: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A product of whole numbers as what it stands for.

    Args:
        product: int32 [rows, out].
        scale: Of the inputs, float32 [rows, 1].
        weight_scale: float32 [1, out].
        bias: [out], or None.
        dtype: Of the result.
    """
    result = product.float() * (scale * weight_scale)
    return (result if bias is None else result + bias.float()).to(dtype)


class Int8Linear(nn.Module):
    """A linear layer in INT8: one product of whole numbers, and a pass before and after it.

    Args:
        weight: Float [out, in].
        bias: Float [out], in the dtype of the inputs, or None.
        device: Where the weight is rounded; None: where it is. The layer stays where the weight is.
        compiled: Whether the passes around the product are compiled on a GPU.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, device: torch.device | None = None, compiled: bool = False
    ):
        super().__init__()
        quantised, scale = (part.to(weight.device) for part in quantise(weight.to(device or weight.device)))
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", bias)
        self._compiled = compiled

    def take(self, weight: Tensor, rows: slice) -> None:
        """Have other rows of the weight from now on, float [rows, in], in the same memory."""
        quantised, scale = quantise(weight)
        self.weight[rows].copy_(quantised)
        self.scale[:, rows].copy_(scale.t())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of x."""
        passes: Callable[[Any], Any] = _compiled if self._compiled and x.is_cuda else _as_it_is
        rows, scale = passes(quantise)(x.flatten(0, -2))
        product = passes(rescale)(multiply(rows, self.weight), scale, self.scale, self.bias, x.dtype)
        return product.unflatten(0, x.shape[:-1])


def multiply(rows: Tensor, weight: Tensor) -> Tensor:
    """The exact product of int8 [rows, in] and int8 [out, in] as int32 [rows, out]."""
    count = len(rows)
    if count < FEWEST_ROWS:
        rows = F.pad(rows, (0, 0, 0, FEWEST_ROWS - count))
    return torch._int_mm(rows, weight.t())[:count]


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, fullgraph=True, dynamic=False)


def _as_it_is(function: Any) -> Any:
    return function


def check_product(device: torch.device) -> None:
    """Multiply one small matrix in INT8 on a device and compare it with the same product in float64.

    Raises:
        UserError: If the product fails or is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weight, _ = (torch.randn(shape, generator=generator) for shape in PROBE_SHAPES)
    (rows, _), (columns, _) = quantise(inputs), quantise(weight)
    try:
        product = multiply(rows.to(device), columns.to(device)).cpu()
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"precision int8: {_name(device)} cannot multiply in INT8 ({reason}): use {INSTEAD}"
        ) from error
    if not torch.equal(product.double(), rows.double() @ columns.double().t()):
        raise UserError(f"precision int8: {_name(device)} multiplies wrongly in INT8: use {INSTEAD}")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def int8_linear(
    weight: Tensor, bias: Tensor | None, device: torch.device | None = None, compiled: bool = False
) -> Int8Linear:
    """The INT8 layer of a weight [out, in] and a bias [out], rounded on a device.

    Raises:
        UserError: For sizes that cuBLAS cannot take.
    """
    if any(side % ALIGNMENT for side in weight.shape):
        raise UserError(
            f"precision int8: the model has a layer of {weight.shape[0]} x {weight.shape[1]}, and INT8 needs "
            f"multiples of {ALIGNMENT}; use {INSTEAD}"
        )
    return Int8Linear(weight, bias, device, compiled)
