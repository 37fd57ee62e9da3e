"""FP8 layers as ONNX has them: QuantizeLinear and DequantizeLinear around an ordinary product ("Q/DQ").

What a library makes one product in FP8 of is this pattern: both factors come from a DequantizeLinear, with scales
that are known when it builds an engine. Weights have one for each row. Those of inputs are found anew for each row of
each input (`pipeline/models/fp8.py`), which has no place there; so the inputs are divided by them before, quantised
with a scale of one, and the product is multiplied by them afterwards. That is the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from wanbatch.pipeline.models.fp8 import FORMAT, LARGEST, SMALLEST_PEAK, Float8Linear

OPSET = 21
"""In which QuantizeLinear names its type by an attribute."""
FLOAT8E4M3FN = 17  # of ONNX's types


@contextmanager
def quantised_linears() -> Iterator[None]:
    """Have FP8 layers be traced as QuantizeLinear and DequantizeLinear, for an export to ONNX."""
    real = Float8Linear.forward
    Float8Linear.forward = _traced  # type: ignore[method-assign]
    try:
        yield
    finally:
        Float8Linear.forward = real  # type: ignore[method-assign]


def _traced(self: Float8Linear, x: Tensor) -> Tensor:
    """As `Float8Linear.emulated` of a quantised input."""
    rows = x.flatten(0, -2)
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / LARGEST
    divided = rows.float() / scale
    one = torch.ones((), dtype=torch.float32, device=x.device)
    quantised = _operator("QuantizeLinear", (divided, one), FORMAT, divided.shape, output_dtype=FLOAT8E4M3FN)
    inputs = _operator("DequantizeLinear", (quantised, one), torch.float32, divided.shape)
    scales = self.scale.flatten()
    weight = _operator("DequantizeLinear", (self.weight, scales), torch.float32, self.weight.shape, axis=0)
    product = (inputs @ weight.t()) * scale
    product = product if self.bias is None else product + self.bias.float()
    return product.to(x.dtype).unflatten(0, x.shape[:-1])


def _operator(name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, shape: Any, **attributes: int) -> Tensor:
    return torch.onnx.ops.symbolic(name, inputs, {**attributes}, dtype=dtype, shape=shape, version=OPSET)
