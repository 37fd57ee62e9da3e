"""The UMT5 text encoder with gated GELU, as transformers computes it, without importing transformers.

Names of parameters and the last bit of the states are those of transformers' `UMT5EncoderModel`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.models.float8_weights import Float8Embedding, to_float8_weights

DEFAULTS: dict[str, Any] = {
    "vocab_size": 250112,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}
"""What a configuration that lacks a field means."""

FEED_FORWARD = "gated-gelu"
"""The one kind of feed-forward that is written here."""


class States(NamedTuple):
    """What the encoder returns: [batch, length, dim]."""

    last_hidden_state: Tensor


class UMT5Encoder(nn.Module):
    """The encoder.

    Args:
        config: Fields of the model's `config.json`; `is_written_here` says whether it is one for this class.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        fields = DEFAULTS | {name: config[name] for name in DEFAULTS.keys() & config.keys()}
        self.config = SimpleNamespace(**fields, is_gated_act=True, dense_act_fn="gelu_new")
        self.shared: Any = _embedding(self.config.vocab_size, self.config.d_model)
        self.encoder = _Stack(self.config, self.shared)

    @staticmethod
    def is_written_here(config: Mapping[str, Any]) -> bool:
        """Whether a configuration is of the kind of encoder that is written here."""
        return config.get("feed_forward_proj", DEFAULTS["feed_forward_proj"]) == FEED_FORWARD

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.final_layer_norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.encoder.final_layer_norm.weight.device

    def to_float8_weights(self, part: str, device: torch.device | None = None) -> None:
        """Keep the weights of a part in FP8 from now on.

        Args:
            part: `shared`, the embedding, or the name of a block, such as `encoder.block.3`.
            device: Where they are rounded; None: where they are.
        """
        if part == "shared":
            self.shared = self.encoder.embed_tokens = Float8Embedding(self.shared.weight, device)
        else:
            to_float8_weights(self.get_submodule(part), device)

    def forward(self, tokens: Tensor, mask: Tensor) -> States:
        """The last hidden states of a batch of tokens.

        Args:
            tokens: int64 [batch, length].
            mask: int64 [batch, length], 1 for tokens and 0 for padding.
        """
        hidden, attended = self.encoder.embed_tokens(tokens), mask.bool()[:, None, None]
        buckets = relative_buckets(tokens.shape[1], self.config, tokens.device)
        for block in self.encoder.block:
            hidden = block(hidden, attended, buckets)
        return States(self.encoder.final_layer_norm(hidden))


def relative_buckets(length: int, config: SimpleNamespace, device: torch.device) -> Tensor:
    """int64 [length, length]: the bucket of each key's distance from each query.

    Half of the buckets are for keys after the query. Of each half, half are exact distances and half grow
    logarithmically.

    Args:
        length: In tokens.
        config: Of the encoder.
        device: Where they are made.
    """
    half, exact = config.relative_attention_num_buckets // 2, config.relative_attention_num_buckets // 4
    positions = torch.arange(length, device=device)
    offset = positions[None, :] - positions[:, None]
    distance = offset.abs()
    ratio = torch.log(distance.float() / exact) / math.log(config.relative_attention_max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (offset > 0)


def _embedding(count: int, size: int) -> nn.Embedding:
    """An embedding that is not drawn: drawing it, even on `meta`, imports torch's compiler."""
    return nn.Embedding.from_pretrained(torch.empty(count, size))


class _Stack(nn.Module):
    def __init__(self, config: SimpleNamespace, shared: nn.Embedding):
        super().__init__()
        self.embed_tokens: Any = shared
        self.block = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = RootMeanSquareNorm(config.d_model, config.layer_norm_epsilon)


class RootMeanSquareNorm(nn.Module):
    """T5's norm: scaled by the root of the mean square, which is found in float32.

    Args:
        size: Of the states.
        eps: Added to the mean square.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        """[..., size] -> the same, in the dtype of the weight."""
        square = states.float().pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(square + self.eps)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            states = states.to(self.weight.dtype)
        return self.weight * states


class _Block(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.layer = nn.ModuleList([_SelfAttentionLayer(config), _FeedForwardLayer(config)])

    def forward(self, hidden: Tensor, attended: Tensor, buckets: Tensor) -> Tensor:
        return self.layer[1](self.layer[0](hidden, attended, buckets))


class _SelfAttentionLayer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.SelfAttention = _Attention(config)
        self.layer_norm = RootMeanSquareNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, hidden: Tensor, attended: Tensor, buckets: Tensor) -> Tensor:
        return hidden + self.SelfAttention(self.layer_norm(hidden), attended, buckets)


class _Attention(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias = _embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, states: Tensor, attended: Tensor, buckets: Tensor) -> Tensor:
        projected = (projection(states) for projection in (self.q, self.k, self.v))
        query, key, value = (one.unflatten(2, (self.heads, -1)).transpose(1, 2) for one in projected)
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        bias = torch.where(attended, bias, torch.finfo(key.dtype).min).contiguous()
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return self.o(found.transpose(1, 2).flatten(2))


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.DenseReluDense = _GatedGelu(config)
        self.layer_norm = RootMeanSquareNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.DenseReluDense(self.layer_norm(hidden))


class _GatedGelu(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.wo(gelu_new(self.wi_0(states)) * self.wi_1(states))


def gelu_new(states: Tensor) -> Tensor:
    """GELU in its tanh form, operation by operation as transformers has it: any shape, in its dtype."""
    return 0.5 * states * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (states + 0.044715 * torch.pow(states, 3.0))))
