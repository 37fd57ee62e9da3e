"""Wan2.2 TI2V-5B at its full size with random weights: real times without a download. The pictures mean nothing.

Configurations are those published with `Wan-AI/Wan2.2-TI2V-5B-Diffusers`. The tokenizer is the small model's,
whose numbers all lie inside the large vocabulary.

    python -m wanbatch.pipeline.loading.random_model FOLDER

writes it as a model folder of 23 GB, to measure whole runs with `wanbatch run --model FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ModelMixin, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import TINY, WAN_DEFAULTS, ModelInfo, find

NAME = "random-5b"

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 14336,
    "num_layers": 30,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
VAE: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
TEXT: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}


def random_info() -> ModelInfo:
    """What `registry.find` would say of it."""
    wan: dict[str, Any] = WAN_DEFAULTS
    multiple = VAE["scale_factor_spatial"] * TRANSFORMER["patch_size"][1]
    form: dict[str, Any] = {"multiple": multiple, "layers": TRANSFORMER["num_layers"]}
    return replace(find(TINY), name=NAME, digest="", shift=5.0, sampler="unipc", **form, **wan)


def random_modules(device: torch.device, dtype: torch.dtype, **smaller: dict[str, Any]) -> Modules:
    """The parts, made on the device in seconds.

    Args:
        device: Where they are made.
        dtype: Of their parameters, as `from_pretrained` would leave them.
        smaller: Changes of the configurations `transformer`, `vae`, `text`, to try this on a small machine.
    """

    def build(make: Callable[[], Any]) -> Any:
        return _built(make, device, dtype)

    return Modules(
        tokenizer=AutoTokenizer.from_pretrained(Path(find(TINY).folder) / "tokenizer"),
        text_encoder=build(lambda: UMT5EncoderModel(UMT5Config(**TEXT | smaller.get("text", {})))),
        transformer=build(lambda: WanTransformer3DModel(**TRANSFORMER | smaller.get("transformer", {}))),
        low_noise_transformer=None,
        boundary=None,
        vae=build(lambda: AutoencoderKLWan(**VAE | smaller.get("vae", {}))),
    )


def pipeline_of(modules: Modules) -> Any:
    """diffusers' `WanPipeline` of the random model's parts."""
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=random_info().shift
    )
    return WanPipeline(
        tokenizer=modules.tokenizer,
        text_encoder=modules.text_encoder,
        transformer=modules.transformer,
        vae=modules.vae,
        scheduler=scheduler,
        expand_timesteps=True,
    )


def save(folder: Path, device: torch.device, **smaller: dict[str, Any]) -> None:
    """Write the random model in bf16 as a folder that `registry.find` knows; `smaller` as of `random_modules`."""
    pipeline_of(random_modules(device, torch.bfloat16, **smaller)).save_pretrained(folder, safe_serialization=True)


def transformer_like(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A `WanTransformer3DModel` of some configuration, with random weights, made on the device."""
    return _built(lambda: WanTransformer3DModel.from_config(dict(config)), device, dtype)


def _built(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with device:
            return _cast(make(), dtype).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def _cast(module: Any, dtype: torch.dtype) -> Any:
    """Parameters as `from_pretrained(dtype=...)` leaves them: diffusers keeps some of them in float32."""
    kept = getattr(module, "_keep_in_fp32_modules", None) if isinstance(module, ModelMixin) else None
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if any(part in name for part in kept or ()) else dtype)
    return module


if __name__ == "__main__":
    save(Path(sys.argv[1]), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
