"""The frozen layers of a model in training as FP8 weights: half the memory of bf16, and gradients pass through.

Weights are e4m3 with a scale for each row, as `models/fp8.py` rounds them; inputs and products stay in the type of
the training, so that any device will do. A layer's weights are widened anew in each product, also in the backward
pass: a product that kept them would need the memory that FP8 saves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.adapters.wan_layers import BLOCK_LAYERS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.fp8 import quantise

BF16, FP8 = "bf16", "fp8"
BASE_PRECISIONS = (BF16, FP8)


class _Product(torch.autograd.Function):
    """Inputs [..., in] by FP8 weights [out, in] with scales [out] -> [..., out], in the type of the inputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(inputs, weight.to(inputs.dtype)).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        scaled = torch.mul(gradient, scale, out=torch.empty_like(gradient))
        return scaled @ weight.to(gradient.dtype), None, None


class Float8FrozenLinear(nn.Module):
    """A frozen linear layer whose weight is kept in FP8.

    Args:
        path: Of the layer in its transformer.
        weight: Float `[out, in]`.
        bias: Float `[out]`, or None.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, path: str, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.path = path
        rows, scale = quantise(weight.detach())
        self.register_buffer("weight", rows)
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.instead: tuple[Tensor, Tensor | None] | None = None  # weight and bias, wherever they are

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the type that autocast asks for, or in that of `hidden`."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        if self.instead is not None:
            weight, bias = self.instead
            return F.linear(hidden.to(dtype), weight.to(hidden.device, dtype), _as(bias, hidden, dtype))
        product = _Product.apply(hidden.to(dtype), self.weight, self.scale)
        return product if self.bias is None else product + self.bias.to(dtype)


def _as(bias: Tensor | None, hidden: Tensor, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(hidden.device, dtype)


def to_float8_base(
    dit: FrameTransformer, device: torch.device, layers: Sequence[str] = BLOCK_LAYERS
) -> FrameTransformer:
    """Keep the linear layers of all blocks in FP8, and move the transformer to a device.

    Layers are rounded on the device one by one, so that it never holds all of them as they were.

    Args:
        dit: A transformer; its layers are replaced in place. Adapters come later.
        device: Where it goes.
        layers: Of each block.
    """
    for index, block in enumerate(dit.blocks):
        for layer in layers:
            linear = block.get_submodule(layer)
            bias = None if linear.bias is None else linear.bias.to(device)
            replaced = Float8FrozenLinear(f"blocks.{index}.{layer}", linear.weight.to(device), bias)
            block.set_submodule(layer, replaced)
    return dit.to(device)


def float8_layers(dit: FrameTransformer) -> list[Float8FrozenLinear]:
    """The layers of a transformer that are kept in FP8; none if it is as it was loaded."""
    return [module for module in dit.modules() if isinstance(module, Float8FrozenLinear)]


@contextlib.contextmanager
def weights_instead(dit: FrameTransformer, transformer: nn.Module) -> Iterator[None]:
    """Within, layers in FP8 multiply by a transformer's own weights, which are moved to them one layer at a time.

    Args:
        dit: With layers in FP8.
        transformer: The model's, as it is loaded, on any device.
    """
    layers = float8_layers(dit)
    try:
        for layer in layers:
            linear = transformer.get_submodule(layer.path)
            layer.instead = (linear.weight, linear.bias)  # type: ignore[assignment]
        yield
    finally:
        for layer in layers:
            layer.instead = None
