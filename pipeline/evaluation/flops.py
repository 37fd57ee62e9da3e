"""Arithmetic that a picture cannot do without, computed from a model's configuration alone.

Matrix products, convolutions and attention count, two operations a multiplication with its addition. What depends
on the prompt alone (text keys and values) or on the step alone (time embedding) is left out of a step: it is a
thousandth of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wanbatch.pipeline.models.vae import FrameVAE


def transformer_flops(config: Mapping[str, Any], tokens: int, keys: int) -> int:
    """One evaluation of a `WanTransformer3DModel` for one sequence.

    tokens: of the latents. keys: that each token sees of the text.
    """
    heads, size = config["num_attention_heads"], config["attention_head_dim"]
    dim = heads * size
    patch = config["patch_size"][1] * config["patch_size"][2]
    linear = 6 * dim * dim + 2 * dim * config["ffn_dim"]  # four for the image, two for the text, two feed-forward
    attention = 2 * dim * (tokens + keys)
    ends = dim * patch * (config["in_channels"] + config["out_channels"])
    return 2 * tokens * (config["num_layers"] * (linear + attention) + ends)


def text_flops(config: Mapping[str, Any], tokens: int) -> int:
    """One prompt through a `UMT5EncoderModel` with a gated feed-forward."""
    inner = config["num_heads"] * config["d_kv"]
    linear = 4 * config["d_model"] * inner + 3 * config["d_model"] * config["d_ff"]
    return 2 * tokens * config["num_layers"] * (linear + 2 * inner * tokens)


def vae_flops(config: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """(encoding, decoding) of one picture of a size in pixels; counted on tensors without storage."""
    with torch.device("meta"), torch.inference_mode():
        vae = FrameVAE(SimpleNamespace(**config))
        stride = config["scale_factor_spatial"]
        latent = torch.empty(1, config["z_dim"], height // stride, width // stride)
        return _counted(vae.encode, torch.empty(1, 3, height, width)), _counted(vae.decode, latent)


def picture_flops(config: Mapping[str, Any], tokens: int, keys: int, steps: int, guided: bool) -> int:
    """All evaluations of the transformer for one picture."""
    return transformer_flops(config, tokens, keys) * steps * (2 if guided else 1)


def _counted(function: Any, argument: torch.Tensor) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows not every fused kernel
        function(argument)
    return counter.get_total_flops()
