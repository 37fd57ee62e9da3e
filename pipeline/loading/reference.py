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
    check_not_converted(info)
    folder = Path(info.folder)
    index = read_json(folder / "model_index.json", "")

    def part(cls, name: str) -> Any:
        return _part(cls, folder / name, dtype).to(device)

    second = has_second_transformer(index)
    return Modules(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=part(UMT5EncoderModel, "text_encoder"),
        transformer=part(WanTransformer3DModel, "transformer"),
        low_noise_transformer=part(WanTransformer3DModel, "transformer_2") if second else None,
        boundary=index.get("boundary_ratio"),
        vae=part(AutoencoderKLWan, "vae"),
    )


def load_transformer(info: ModelInfo, dtype: torch.dtype, name: str = "transformer") -> Any:
    """Load a model's transformer alone, on the CPU: a `WanTransformer3DModel`.

    Args:
        info: Of the model, from `registry.find`.
        dtype: Of its weights.
        name: Of its folder: `transformer`, or `transformer_2` for the second expert of A14B.

    Raises:
        UserError: If its files do not make one.
    """
    check_not_converted(info)
    return _part(WanTransformer3DModel, Path(info.folder) / name, dtype)


def check_not_converted(info: ModelInfo) -> None:
    if info.converted is not None:
        raise UserError(f"{info.name}: was converted, which diffusers does not read: --model {info.converted.source}")


def load_text_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A `UMT5EncoderModel` of any kind, as transformers builds it.

    Raises:
        UserError: If its files do not make one.
    """
    return _part(UMT5EncoderModel, folder, dtype).to(device)


@torch.no_grad()
def _part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        module = cls.from_pretrained(folder, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as {cls.__name__}: {error}") from error
    return module.eval().requires_grad_(False)
