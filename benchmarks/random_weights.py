"""TI2V-5B with random weights for whole runs: made on each worker's device, without files of weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

RANDOM = "random-5b"


def write_random_folder(folder: Path) -> Path:
    """A model folder with the configurations of the full-size model and empty files instead of its weights."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from safetensors.torch import save_file
    from transformers import UMT5Config

    from wanbatch.pipeline.loading.random_model import TEXT, TRANSFORMER, VAE, random_info
    from wanbatch.pipeline.loading.registry import TINY, find

    tiny = Path(find(TINY).folder)
    shutil.copytree(tiny / "tokenizer", folder / "tokenizer")
    shutil.copy(tiny / "model_index.json", folder)
    UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=random_info().shift
    ).save_pretrained(folder / "scheduler")
    with torch.device("meta"):
        WanTransformer3DModel(**TRANSFORMER).save_config(folder / "transformer")
        AutoencoderKLWan(**VAE).save_config(folder / "vae")
    UMT5Config(**TEXT, architectures=["UMT5EncoderModel"]).save_pretrained(folder / "text_encoder")
    for part in ("transformer", "vae", "text_encoder"):
        save_file({}, folder / part / "empty.safetensors")
    return folder


def load_random(model: Any, device: str, dtype: str, slots: int, compiled: bool) -> Any:
    """What a worker works with: random weights, made on its device in seconds instead of read from a disk."""
    import torch

    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading.compiler import set_up_compiler
    from wanbatch.pipeline.loading.random_model import random_modules
    from wanbatch.pipeline.loading.runtime import Runtime
    from wanbatch.pipeline.loading.weights import DTYPES

    if compiled:
        set_up_compiler(None)
    where = torch.device(device)
    return Wan(random_modules(where, DTYPES[dtype]), where, slots, Runtime(compile=compiled))
