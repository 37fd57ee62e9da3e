"""Layers whose weights alone are in FP8 (e4m3), with one scale for each row: half the memory, no other arithmetic.

Inputs and products stay in the model's dtype, so any device can run them: each weight is converted when it is used,
which is exact, and the product is scaled. For what is used seldom and takes much memory, as a text encoder does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models.fp8 import FORMAT, quantise

ROWS_AT_ONCE = 16384  # that are rounded; float32 copies of them are needed meanwhile


class Float8Weight(nn.Module):
    """A linear layer without bias.

    Args:
        weight: FP8 [out, in].
        scale: float32 [out].
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, weight: Tensor, device: torch.device | None = None) -> Float8Weight:
        """Round a weight [out, in].

        Args:
            weight: Of any float dtype.
            device: Where it is rounded; None: where it is. It stays where it is.
        """
        return cls(*rounded(weight, device))

    @classmethod
    def joined(cls, layers: tuple[Float8Weight, ...]) -> Float8Weight:
        """Several layers of the same inputs as one, whose outputs follow each other."""
        weights = torch.cat([layer.weight.view(torch.uint8) for layer in layers]).view(FORMAT)
        return cls(weights, torch.cat([layer.scale for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of x."""
        return (F.linear(x, self.weight.to(x.dtype)).float() * self.scale).to(x.dtype)


class Float8Embedding(nn.Module):
    """An embedding.

    Args:
        weight: Of any float dtype, [count, size].
        device: Where it is rounded; None: where it is. It stays where it is.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, device: torch.device | None = None):
        super().__init__()
        self.dtype = weight.dtype
        numbers, scale = rounded(weight, device)
        self.register_buffer("weight", numbers)
        self.register_buffer("scale", scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> [..., size], in the dtype that the weight had."""
        rows = F.embedding(tokens, self.weight.view(torch.uint8)).view(FORMAT)
        return (rows.float() * self.scale[tokens][..., None]).to(self.dtype)


def rounded(weight: Tensor, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """A weight [rows, columns] in FP8, and the scale of each row, float32 [rows], where the weight is."""
    parts = [quantise(part.to(device or weight.device)) for part in weight.detach().split(ROWS_AT_ONCE)]
    numbers = torch.cat([one.view(torch.uint8) for one, _ in parts]).view(FORMAT)
    scale = torch.cat([one for _, one in parts]).squeeze(1)
    return numbers.to(weight.device), scale.to(weight.device)


def to_float8_weights(module: nn.Module, device: torch.device | None = None) -> None:
    """Replace all linear layers in a module, which have no biases, and free their weights.

    Args:
        module: Whose layers are replaced.
        device: Where weights are rounded; None: where they are.
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Float8Weight.of(layer.weight, device))
