"""Loading a model's weights, safetensors only, as diffusers' and transformers' own modules.

What these are turned into for single frames is in `single_frame.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.registry import ModelInfo

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Modules:
    """The parts of a loaded model, as diffusers and transformers build them.

    Attributes:
        tokenizer: Of the text encoder.
        text_encoder: A `UMT5EncoderModel`.
        transformer: A `WanTransformer3DModel`.
        low_noise_transformer: The second expert of A14B, for noise levels below `boundary`; else None.
        boundary: A noise level; None for a model of one transformer.
        vae: An `AutoencoderKLWan`.
    """

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    low_noise_transformer: Any
    boundary: float | None
    vae: Any


def load(info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Modules:
    """Load the parts of a model onto a device.

    Args:
        info: Of the model, from `registry.find`.
        device: Where the parts go.
        dtype: Of all parts.

    Raises:
        UserError: If a part's files do not make the module that they should.
    """
    folder = Path(info.folder)
    index = json.loads((folder / "model_index.json").read_text())

    def part(cls, name: str, **options) -> Any:
        return _part(cls, folder / name, **options).to(device).eval().requires_grad_(False)

    with torch.no_grad():
        second = (index.get("transformer_2") or [None])[0] is not None
        return Modules(
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder=part(UMT5EncoderModel, "text_encoder", dtype=dtype),
            transformer=part(WanTransformer3DModel, "transformer", dtype=dtype),
            low_noise_transformer=part(WanTransformer3DModel, "transformer_2", dtype=dtype) if second else None,
            boundary=index.get("boundary_ratio"),
            vae=part(AutoencoderKLWan, "vae", dtype=dtype),
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
    with torch.no_grad():
        module = _part(WanTransformer3DModel, Path(info.folder) / name, dtype=dtype)
    return module.eval().requires_grad_(False)


def _part(cls: Any, folder: Path, **options: Any) -> Any:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        return cls.from_pretrained(folder, use_safetensors=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder}: cannot be loaded as {cls.__name__}: {error}") from error


def weight_bytes(info: ModelInfo) -> int:
    """The size of a model's weight files."""
    return sum(path.stat().st_size for path in Path(info.folder).rglob("*.safetensors"))
