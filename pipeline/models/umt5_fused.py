"""The UMT5 text encoder on a GPU: the arithmetic of transformers' `UMT5EncoderModel` with fewer passes and roundings.

Query, key and value are one matrix product, and so are the two halves of the gated feed-forward; what lies between
the products is the package `kernels`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models import kernels
from wanbatch.pipeline.models.float8_weights import Float8Weight


class FusedUMT5(nn.Module):
    """A text encoder made from the weights of a `UMT5EncoderModel`, whose layers are given up one by one.

    Weights keep their dtype and device. `fits` says which models it can be made of.
    """

    def __init__(self, model: Any):
        super().__init__()
        config = model.config
        self.heads = config.num_heads
        self.buckets, self.distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
        self.eps = config.layer_norm_epsilon
        self.embedding = model.encoder.embed_tokens
        self.norm = model.encoder.final_layer_norm.weight
        self.layers = nn.ModuleList()
        for index, block in enumerate(model.encoder.block):
            self.layers.append(_Layer(block))
            model.encoder.block[index] = nn.Identity()
        self._buckets_of: dict[tuple[int, torch.device], Tensor] = {}

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model has the form that is written here: gated, with GELU in its tanh form."""
        return model.config.is_gated_act and model.config.dense_act_fn in {"gelu_new", "gelu_pytorch_tanh"}

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.device

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states of a batch of tokens.

        Args:
            tokens: int64 [batch, length].
            mask: int64 [batch, length], 1 for tokens and 0 for padding.

        Returns:
            [batch, length, dim].
        """
        hidden, pending = self.embedding(tokens), None
        masked = torch.zeros(mask.shape, dtype=self.dtype, device=mask.device)
        masked = masked.masked_fill_(mask == 0, -math.inf)[:, None, None]
        buckets = self._relative_buckets(tokens.shape[1], tokens.device)
        for layer in self.layers:
            hidden, pending = layer(hidden, pending, masked, buckets, self.heads, self.eps)
        hidden, normed = kernels.add_norm(hidden, pending, self.norm, None, self.eps, centred=False)
        return normed.values.view_as(hidden)

    def _relative_buckets(self, length: int, device: torch.device) -> Tensor:
        """int64 [length, length]: the bucket of each key's distance from each query, as T5 has it in both directions.

        Half of the buckets are for keys after the query. Of each half, half are exact distances and half grow
        logarithmically up to `distance`.
        """
        if (length, device) not in self._buckets_of:
            positions = torch.arange(length, device=device)
            offset = positions[None, :] - positions[:, None]
            half, exact = self.buckets // 2, self.buckets // 4
            far = torch.log(offset.abs().clamp(min=1).float() / exact) / math.log(self.distance / exact)
            logarithmic = (exact + (far * (half - exact)).long()).clamp(max=half - 1)
            near = torch.where(offset.abs() < exact, offset.abs(), logarithmic)
            self._buckets_of[length, device] = near + half * (offset > 0)
        return self._buckets_of[length, device]


class _Layer(nn.Module):
    """Self-attention and gated feed-forward."""

    def __init__(self, block: Any):
        super().__init__()
        attention, feed = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        self.norm1, self.norm2 = block.layer[0].layer_norm.weight, block.layer[1].layer_norm.weight
        self.qkv = _joined(attention.q, attention.k, attention.v)
        self.wi = _joined(feed.wi_0, feed.wi_1)
        self.o, self.wo = _joined(attention.o), _joined(feed.wo)
        self.position = attention.relative_attention_bias.weight

    def forward(
        self,
        hidden: Tensor,
        pending: kernels.PendingResidual | None,
        masked: Tensor,
        buckets: Tensor,
        heads: int,
        eps: float,
    ) -> tuple[Tensor, kernels.PendingResidual]:
        """As `FusedUMT5.forward`: hidden states without what the last product adds, and that."""
        shape = hidden.shape
        hidden, normed = kernels.add_norm(hidden, pending, self.norm1, None, eps, centred=False)
        parts = _product(normed.values, self.qkv).view(*shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        bias = F.embedding(buckets, self.position).permute(2, 0, 1).contiguous() + masked
        attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias, scale=1.0)
        attended = _product(attended.transpose(1, 2).flatten(2), self.o)
        pending = kernels.PendingResidual(attended)
        hidden, normed = kernels.add_norm(hidden, pending, self.norm2, None, eps, centred=False)
        inner = kernels.gated_gelu(_product(normed.values, self.wi))
        return hidden, kernels.PendingResidual(_product(inner, self.wo).view(shape))


def _joined(*layers: Any) -> nn.Parameter | Float8Weight:
    """What layers of the same inputs multiply them by, as one."""
    if isinstance(layers[0], Float8Weight):
        return layers[0] if len(layers) == 1 else Float8Weight.joined(layers)
    if len(layers) == 1:
        return layers[0].weight
    return nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)


def _product(x: Tensor, weights: nn.Parameter | Float8Weight) -> Tensor:
    return weights(x) if isinstance(weights, Float8Weight) else F.linear(x, weights)
