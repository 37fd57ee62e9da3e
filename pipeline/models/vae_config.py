"""The configuration of Wan's video autoencoder: what a field that is not given means."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

DEFAULTS: dict[str, Any] = {
    "base_dim": 96,
    "decoder_base_dim": None,
    "z_dim": 16,
    "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "attn_scales": (),
    "temperal_downsample": (False, True, True),
    "latents_mean": WAN21_MEAN,
    "latents_std": WAN21_STD,
    "is_residual": False,
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
}


def vae_config(config: Mapping[str, Any]) -> SimpleNamespace:
    """The configuration as attributes, as diffusers has them.

    Args:
        config: Fields of the autoencoder's `config.json`.
    """
    return SimpleNamespace(**DEFAULTS | {name: config[name] for name in DEFAULTS.keys() & config.keys()})
