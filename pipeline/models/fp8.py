"""FP8 linear layers: e4m3 with one scale for each row of the input and each row of the weight.

A row's largest magnitude becomes 448, the largest number of the format. Scales are found anew for each input, so
nothing is calibrated and a row's result does not depend on the other rows of the batch. Nothing here decides
*whether* FP8 is used; and without `torch.compile` it is slower than bf16, because finding the scales and
rounding are then passes of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wanbatch.errors import UserError
from wanbatch.pipeline.models.dit import FrameBlock, FrameTransformer

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
ALIGNMENT = 16  # what cuBLAS wants both sides of the weight to be multiples of
CAPABILITY = (8, 9)  # Ada, Hopper, Blackwell


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Float [rows, columns] -> the same in FP8, and the scales, float32 [rows, 1], that turn it back."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FORMAT), scale


class Float8Linear(nn.Module):
    """A linear layer in FP8.

    weight: float [out, in]. bias: float [out], in the dtype of the inputs.
    On a GPU one matrix product in FP8 with fast accumulation; elsewhere the same rounding, multiplied in float32.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        quantised, scale = quantise(weight)
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of x."""
        rows, scale = quantise(x.flatten(0, -2))
        return self.multiply(rows, scale, x.dtype).unflatten(0, x.shape[:-1])

    def multiply(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Quantised inputs [rows, in] with their scales, float32 [rows, 1] -> [rows, out] in `dtype`."""
        if rows.device.type == "cuda":
            return torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale,
                bias=self.bias,
                out_dtype=dtype,
                use_fast_accum=True,
            )
        product = (rows.float() * scale) @ (self.weight.float() * self.scale.t()).t()
        return (product if self.bias is None else product + self.bias.float()).to(dtype)


@torch.no_grad()
def to_float8(frame: FrameTransformer) -> FrameTransformer:
    """Replace the large linear layers of each block, and free their weights. `fuse` comes first.

    The text's keys and values, made once a row, stay as they are, and so does everything outside the blocks.
    Raises UserError for a model whose layers cuBLAS cannot take.
    """
    for block in frame.blocks:
        _replace(block)
    return frame


def _replace(block: FrameBlock) -> None:
    if block.qkv_weight is None:
        raise ValueError("fuse the transformer before its layers are replaced")
    block.qkv = _linear(block.qkv_weight, block.qkv_bias)
    block.qkv_weight = block.qkv_bias = None
    block.attn1.to_q = block.attn1.to_k = block.attn1.to_v = None  # views of the weight that is to be freed
    block.attn1.to_out[0] = _linear(block.attn1.to_out[0].weight, block.attn1.to_out[0].bias)
    block.attn2.to_q = _linear(block.attn2.to_q.weight, block.attn2.to_q.bias)
    block.attn2.to_out[0] = _linear(block.attn2.to_out[0].weight, block.attn2.to_out[0].bias)
    block.ffn.net[0].proj = _linear(block.ffn.net[0].proj.weight, block.ffn.net[0].proj.bias)
    block.ffn.net[2] = _linear(block.ffn.net[2].weight, block.ffn.net[2].bias)


def _linear(weight: Tensor, bias: Tensor | None) -> Float8Linear:
    if any(side % ALIGNMENT for side in weight.shape):
        raise UserError(
            f"precision fp8: the model has a layer of {weight.shape[0]} x {weight.shape[1]}, and FP8 needs multiples "
            f"of {ALIGNMENT}; use --precision bf16"
        )
    return Float8Linear(weight, bias)
