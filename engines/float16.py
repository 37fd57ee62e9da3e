"""The parts of a model in float16, for ONNX files and plans: as fast as bf16, and on GPUs that have no bf16, too.

Float16 holds numbers up to 65504. What may be larger stays in float32:

* UMT5's feed-forward layers: transformers keeps their last product, `wo`, in float32 (`_keep_in_fp32_modules` of its
  `UMT5PreTrainedModel`), and so everything that is added up from block to block. Here each row of
  what goes into that product is divided by its largest number before, and multiplied by it in float32 afterwards:
  the weights can then be float16, and the sums are as large as they are.
* The embedding of the noise level, which diffusers keeps in float32 (`_keep_in_fp32_modules` of its
  `WanTransformer3DModel`). TensorRT for RTX multiplies no float32 matrices for compute capability 7.5, so these
  products are written as sums.

Inputs and outputs of a graph in float16 are float32: whoever calls an engine need not hold anything in float16.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.engines.graphs import Graph, in_float32
from wanbatch.engines.labels import TEXT
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder, gelu_new

LARGEST = torch.finfo(torch.float16).max
SMALLEST_PEAK = 1e-12  # of a row, which is divided by it


class ScaledFeedForward(nn.Module):
    """UMT5's feed-forward in float16, with a result in float32 that may be larger than float16 holds.

    Args:
        layer: `DenseReluDense` of a block of `UMT5Encoder`, whose parameters are shared.
    """

    def __init__(self, layer: Any):
        super().__init__()
        self.wi_0, self.wi_1, self.wo = layer.wi_0, layer.wi_1, layer.wo

    def forward(self, states: Tensor) -> Tensor:
        """[..., dim] in the dtype of the weights -> the same in float32."""
        inner = gelu_new(self.wi_0(states).float()) * self.wi_1(states).float()
        peak = inner.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_PEAK)
        return self.wo((inner / peak).to(self.wo.weight.dtype)).float() * peak


class SummedLinear(nn.Module):
    """A linear layer without a product of matrices, for the few rows of a batch.

    Args:
        linear: Whose parameters are shared.
    """

    def __init__(self, linear: Any):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return (states[..., None, :] * self.weight).sum(-1) + self.bias


class Float32States(nn.Module):
    """A text encoder whose states come out in float32.

    Args:
        model: Fulfils `TextModel`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """See `TextModel`."""
        states: Tensor = self.model(tokens, mask)
        return states.float()


def prepared(parts: Modules) -> Modules:
    """The parts of a model that was loaded in float16, with layers that compute in float32 what may be too large."""
    keep_large_sums(parts.text_encoder)
    for transformer in (parts.transformer, parts.low_noise_transformer):
        if transformer is not None:
            embedder = transformer.condition_embedder.time_embedder
            embedder.linear_1, embedder.linear_2 = map(SummedLinear, (embedder.linear_1, embedder.linear_2))
    return parts


def keep_large_sums(text_encoder: Any) -> None:
    """Have a text encoder's feed-forward layers give float32; transformers' own encoders see to it themselves."""
    if isinstance(text_encoder, UMT5Encoder):
        blocks: Any = text_encoder.encoder.block
        for block in blocks:
            layer = block.layer[1]
            layer.DenseReluDense = ScaledFeedForward(layer.DenseReluDense)


def called_in_float32(graph: Graph) -> Graph:
    """A graph in float16 that takes and gives float32."""
    module = Float32States(graph.module) if graph.component == TEXT else graph.module
    return replace(graph, module=module, inputs=in_float32(graph.inputs))
