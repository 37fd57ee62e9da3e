"""FP8 linear layers: e4m3 with one scale for each row of the input and each row of the weight.

A row's largest magnitude becomes 448, the largest number of the format. Scales are found anew for each input, so
nothing is calibrated and a row's result does not depend on the other rows of the batch. Nothing here decides
*whether* FP8 is used, but `check_product` finds out whether a device can. Without `torch.compile` it is slower than
bf16, because finding the scales and rounding are then passes of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wanbatch.errors import UserError

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SMALLEST_PEAK = 1e-12  # what a row of zeros is scaled by instead of its largest magnitude
ALIGNMENT = 16  # what cuBLAS wants both sides of the weight to be multiples of
CAPABILITY = (8, 9)  # Ada, Hopper, Blackwell
INSTEAD = "--precision bf16"
PROBE_SHAPES = ((48, 128), (64, 128), (64,))  # of inputs, weight and bias of the product that is tried
PROBE_TOLERANCE = 0.01  # of the norm; fast accumulation and the rounding to bf16 make half of that at most


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Float [rows, columns] -> the same in FP8, and the scales, float32 [rows, 1], to multiply it with."""
    if rows.is_meta:  # where arithmetic imports torch's compiler
        return torch.empty_like(rows, dtype=FORMAT), rows.new_empty((len(rows), 1), dtype=torch.float32)
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST_PEAK) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FORMAT), scale


class Float8Linear(nn.Module):
    """A linear layer in FP8.

    On a GPU one matrix product in FP8 with fast accumulation; elsewhere the same rounding, multiplied in float32.

    Args:
        weight: Float [out, in].
        bias: Float [out], in the dtype of the inputs, or None.
        device: Where the weight is rounded; None: where it is. The layer stays where the weight is.
    """

    takes_float8 = True
    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, device: torch.device | None = None):
        super().__init__()
        where = weight.device if device is None or weight.is_meta else device
        quantised, scale = (part.to(weight.device) for part in quantise(weight.to(where)))
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", bias)

    def take(self, weight: Tensor, rows: slice) -> None:
        """Have other rows of the weight from now on, float [rows, in], in the same memory."""
        quantised, scale = quantise(weight)
        self.weight[rows].copy_(quantised)
        self.scale[:, rows].copy_(scale.t())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of x."""
        rows, scale = quantise(x.flatten(0, -2))
        return self.multiply(rows, scale, x.dtype).unflatten(0, x.shape[:-1])

    def multiply(self, rows: Tensor, scale: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """Quantised inputs [rows, in] with their scales, float32 [rows, 1] -> [rows, out] in `dtype`, or in `out`."""
        if rows.device.type == "cuda":
            return torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale,
                bias=self.bias,
                out_dtype=dtype,
                use_fast_accum=True,
                out=out,
            )
        product = self.emulated(rows, scale, dtype)
        return product if out is None else out.copy_(product)

    def emulated(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """What `multiply` gives, multiplied in float32 on any device."""
        product = (rows.float() * scale) @ (self.weight.float() * self.scale.t()).t()
        return (product if self.bias is None else product + self.bias.float()).to(dtype)


def check_product(device: torch.device) -> None:
    """Multiply one small matrix in FP8 on a device and compare it with the same product in float32.

    Some GPUs say that they have FP8 but fail at a product with a scale for each row, or make nonsense of it. This
    finds it out before a model is loaded.

    Raises:
        UserError: If the product fails or is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(shape, generator=generator).bfloat16() for shape in PROBE_SHAPES)
    layer = Float8Linear(weight, bias)
    rows, scale = quantise(inputs)
    expected = layer.emulated(rows, scale, torch.bfloat16).float()
    try:
        product = layer.to(device).multiply(rows.to(device), scale.to(device), torch.bfloat16).float().cpu()
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"precision fp8: {_name(device)} cannot multiply in FP8 ({reason}): use {INSTEAD}") from error
    off = float((product - expected).norm() / expected.norm())
    if not off <= PROBE_TOLERANCE:  # nor if it is NaN
        raise UserError(f"precision fp8: {_name(device)} multiplies wrongly in FP8 (off by {off:.2g}): use {INSTEAD}")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def float8_linear(weight: Tensor, bias: Tensor | None, device: torch.device | None = None) -> Float8Linear:
    """The FP8 layer of a weight [out, in] and a bias [out], rounded on a device.

    Raises:
        UserError: For sizes that cuBLAS cannot take.
    """
    if any(side % ALIGNMENT for side in weight.shape):
        raise UserError(
            f"precision fp8: the model has a layer of {weight.shape[0]} x {weight.shape[1]}, and FP8 needs multiples "
            f"of {ALIGNMENT}; use {INSTEAD}"
        )
    return Float8Linear(weight, bias, device)
