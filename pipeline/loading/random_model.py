"""Wan's models at their full size with random weights: real times without a download. The pictures mean nothing.

Configurations are those published with `Wan-AI/Wan2.2-TI2V-5B-Diffusers`, `Wan-AI/Wan2.2-T2V-A14B-Diffusers` and
`Wan-AI/Wan2.1-T2V-1.3B-Diffusers`. The tokenizer is the small model's, whose numbers all lie inside the large
vocabulary.

    python -m wanbatch.pipeline.loading.random_model FOLDER [5b|a14b|1.3b]

writes one as a model folder (5b: 23 GB), to measure whole runs with `wanbatch run --model FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLWan, ModelMixin, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from wanbatch.pipeline.loading.defaults import A14B_DEFAULTS, WAN_DEFAULTS
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import TINY, ModelInfo, find
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder

Size = Literal["5b", "a14b", "1.3b"]
NAME = "random-"
"""How names of models with random weights begin; their size follows."""

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


TRANSFORMER_A14B = TRANSFORMER | {
    "num_attention_heads": 40,
    "in_channels": 16,
    "out_channels": 16,
    "ffn_dim": 13824,
    "num_layers": 40,
}
TRANSFORMER_1_3B = TRANSFORMER_A14B | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
VAE_OF_WAN_2_1: dict[str, Any] = {
    "base_dim": 96,
    "decoder_base_dim": None,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": False,
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
    "scale_factor_spatial": 8,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What is published of a model, besides its weights.

    Attributes:
        transformer: Configuration of the transformer, or of both experts.
        vae: Configuration of the VAE.
        defaults: What its authors use for a picture.
        shift: Of the schedule.
        boundary: The noise level below which the second expert works; None for a model of one transformer.
    """

    transformer: dict[str, Any]
    vae: dict[str, Any]
    defaults: dict[str, Any]
    shift: float
    boundary: float | None = None


PUBLISHED: dict[Size, PublishedModel] = {
    "5b": PublishedModel(TRANSFORMER, VAE, WAN_DEFAULTS, 5.0),
    "a14b": PublishedModel(TRANSFORMER_A14B, VAE_OF_WAN_2_1, A14B_DEFAULTS, 12.0, 0.875),
    "1.3b": PublishedModel(
        TRANSFORMER_1_3B, VAE_OF_WAN_2_1, WAN_DEFAULTS | {"width": 832, "height": 480, "guidance": 6.0}, 8.0
    ),
}


def random_info(size: Size = "5b") -> ModelInfo:
    """What `registry.find` would say of a model of this size."""
    model = PUBLISHED[size]
    multiple = model.vae["scale_factor_spatial"] * model.transformer["patch_size"][1]
    form: dict[str, Any] = {
        "multiple": multiple,
        "layers": model.transformer["num_layers"],
        "two_experts": model.boundary is not None,
    }
    defaults = {"guidance_2": None} | model.defaults
    return replace(find(TINY), name=NAME + size, digest="", shift=model.shift, sampler="unipc", **form, **defaults)


def size_of_random(name: str) -> Size | None:
    """The size of a model with random weights by its name; None for the name of another model."""
    return next((size for size in PUBLISHED if name == NAME + size), None)


def random_modules(device: torch.device, dtype: torch.dtype, size: Size = "5b", **smaller: dict[str, Any]) -> Modules:
    """The parts, made on the device in seconds.

    Args:
        device: Where they are made.
        dtype: Of their parameters, as `from_pretrained` would leave them.
        size: Which model.
        smaller: Changes of the configurations `transformer`, `vae`, `text`, to try this on a small machine.
    """
    model = PUBLISHED[size]

    def build(make: Callable[[], Any]) -> Any:
        return _built(make, device, dtype)

    def transformer() -> Any:
        return build(lambda: WanTransformer3DModel(**model.transformer | smaller.get("transformer", {})))

    return Modules(
        tokenizer=AutoTokenizer.from_pretrained(Path(find(TINY).folder) / "tokenizer"),
        text_encoder=build(lambda: UMT5EncoderModel(UMT5Config(**TEXT | smaller.get("text", {})))),
        transformer=transformer(),
        low_noise_transformer=None if model.boundary is None else transformer(),
        boundary=model.boundary,
        vae=random_vae(device, dtype, size, **smaller.get("vae", {})),
    )


def with_float8_text(modules: Modules) -> Modules:
    """The same parts, the weights of the text encoder in FP8 as `--text-precision fp8` leaves them."""
    with torch.device("meta"):
        text = UMT5Encoder(modules.text_encoder.config.to_dict())
    text.load_state_dict(modules.text_encoder.state_dict(), assign=True)
    for part in ("shared", *(f"encoder.block.{index}" for index in range(len(text.encoder.block)))):
        text.to_float8_weights(part)
    return replace(modules, text_encoder=text)


def random_vae(device: torch.device, dtype: torch.dtype, size: Size = "5b", **smaller: Any) -> Any:
    """The VAE alone, made on the device; the arguments are those of `random_modules`."""
    return _built(lambda: AutoencoderKLWan(**PUBLISHED[size].vae | smaller), device, dtype)


def pipeline_of(modules: Modules, size: Size = "5b") -> Any:
    """diffusers' `WanPipeline` of a random model's parts."""
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=PUBLISHED[size].shift
    )
    return WanPipeline(
        tokenizer=modules.tokenizer,
        text_encoder=modules.text_encoder,
        transformer=modules.transformer,
        transformer_2=modules.low_noise_transformer,
        boundary_ratio=modules.boundary,
        vae=modules.vae,
        scheduler=scheduler,
        expand_timesteps=size == "5b",
    )


def save(folder: Path, device: torch.device, size: Size = "5b", **smaller: dict[str, Any]) -> None:
    """Write a random model in bf16 as a folder that `registry.find` knows; `smaller` as of `random_modules`."""
    modules = random_modules(device, torch.bfloat16, size, **smaller)
    pipeline_of(modules, size).save_pretrained(folder, safe_serialization=True)


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
    chosen: Size = next((size for size in PUBLISHED if size in sys.argv[2:]), "5b")
    save(Path(sys.argv[1]), torch.device("cuda" if torch.cuda.is_available() else "cpu"), chosen)
