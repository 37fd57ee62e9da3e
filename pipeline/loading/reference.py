"""A model as diffusers' and transformers' own modules: what this runtime is compared with and trained on.

Importing this takes seconds. Runs do without: `weights.py` reads the same files into the modules that they need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.loading.model_form import has_second_transformer
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import ModelInfo


def load_reference(info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Modules:
    """Load the parts of a model onto a device, as diffusers and transformers build them.

    Args:
        info: Of the model, from `registry.find`.
        device: Where the parts go.
        dtype: Of all parts.

    Raises:
        UserError: If a part's files do not make the module that they should.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder = Path(info.folder)
    index = read_json(folder / "model_index.json", "")

    def part(cls, name: str, **options) -> Any:
        try:
            module = cls.from_pretrained(folder / name, use_safetensors=True, **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"{folder / name}: cannot be loaded as {cls.__name__}: {error}") from error
        return module.to(device).eval().requires_grad_(False)

    with torch.no_grad():
        second = has_second_transformer(index)
        return Modules(
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder=part(UMT5EncoderModel, "text_encoder", dtype=dtype),
            transformer=part(WanTransformer3DModel, "transformer", dtype=dtype),
            low_noise_transformer=part(WanTransformer3DModel, "transformer_2", dtype=dtype) if second else None,
            boundary=index.get("boundary_ratio"),
            vae=part(AutoencoderKLWan, "vae", dtype=dtype),
        )


def load_text_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A `UMT5EncoderModel` of any kind, as transformers builds it.

    Raises:
        UserError: If its files do not make one.
    """
    try:
        module: Any = UMT5EncoderModel.from_pretrained(folder, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as UMT5EncoderModel: {error}") from error
    return module.to(device).eval().requires_grad_(False)
