"""Small models with random weights, of the real classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel


def random_transformer(seed: int = 0, **changes) -> WanTransformer3DModel:
    """A small `WanTransformer3DModel` whose every parameter is random, also those that start as zero or one."""
    config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "in_channels": 8,
        "out_channels": 8,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 128,
        "num_layers": 3,
        "rope_max_seq_len": 64,
    }
    torch.manual_seed(seed)
    model = WanTransformer3DModel(**{**config, **changes}).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


WORDS = [
    "a",
    "an",
    "the",
    "red",
    "green",
    "blue",
    "big",
    "small",
    "heart",
    "star",
    "circle",
    "square",
    "on",
    "at",
    "left",
    "right",
    "background",
    "dotted",
    "striped",
]


def save_random_pipeline(folder: Path, seed: int = 0) -> Path:
    """A small Wan2.2 TI2V pipeline with random weights, in the file layout of the real one."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=8,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=torch.linspace(-0.2, 0.2, 8).tolist(),
        latents_std=torch.linspace(0.8, 1.2, 8).tolist(),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
    )
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, is_encoder_decoder=False)
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -4.0)] + [(f"▁{word}", -3.0) for word in WORDS]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    scheduler = UniPCMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=random_transformer(seed),
        expand_timesteps=True,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    defaults = {"width": 64, "height": 64, "steps": 6, "guidance": 4.0, "negative_prompt": ""}
    (folder / "wanbatch.json").write_text(json.dumps(defaults))
    return folder


def save_random_a14b(folder: Path, parts: Mapping[str, Any], boundary: float = 0.875) -> Path:
    """A small model in the form of Wan2.2 T2V-A14B: two experts, and a VAE of Wan2.1's form, with a stride of 8.

    Args:
        folder: Where it goes.
        parts: Of the pipeline of `save_random_pipeline`, of which tokenizer, text encoder and transformer are taken.
        boundary: The noise level at which the second expert takes over.
    """
    torch.manual_seed(3)
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=8,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=torch.linspace(-0.2, 0.2, 8).tolist(),
        latents_std=torch.linspace(0.8, 1.2, 8).tolist(),
    )
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=12.0)
    made = WanPipeline(
        **{name: parts[name] for name in ("tokenizer", "text_encoder", "transformer")},
        vae=vae.eval(),
        scheduler=scheduler,
        transformer_2=random_transformer(seed=5),
        boundary_ratio=boundary,
    )
    made.save_pretrained(folder, safe_serialization=True)
    return folder
