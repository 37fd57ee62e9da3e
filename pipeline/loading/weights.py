"""Loading a model's weights, safetensors only, straight onto the device that they are for.

Modules are made without memory (`meta`), and each tensor is read to where it stays, several at once; a block of the
transformer is made ready (joined, quantised) as soon as it is there, so that no second copy of the model is needed.
Neither diffusers nor transformers is imported, unless a model has a text encoder or a tokenizer of a kind that is not
written here (`reference.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.loading.filling import Filling, fill
from wanbatch.pipeline.loading.model_form import CLASSES, has_second_transformer
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.tokenizer import read_tokenizer
from wanbatch.pipeline.loading.weight_files import stored_tensors
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder
from wanbatch.pipeline.models.vae import FrameVAE, live
from wanbatch.pipeline.models.vae_config import vae_config
from wanbatch.pipeline.models.wan_parts import KEPT_IN_FLOAT32, WanParts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OF_DIFFUSERS, OF_TRANSFORMERS = "diffusion_pytorch_model", "model"  # what these call their files of weights

MakeReady = Callable[[FrameBlock], None]
"""Makes a block of the transformer ready to be run, once its weights are there."""


def load(info: ModelInfo, device: torch.device, dtype: torch.dtype, make_ready: MakeReady | None = None) -> Modules:
    """Load the parts of a model onto a device.

    Args:
        info: Of the model, from `registry.find`.
        device: Where the parts go.
        dtype: Of all parts.
        make_ready: Called for each block of the transformers as soon as it is there; None: they stay as they are.

    Raises:
        UserError: If a part's files do not make the module that they should.
    """
    folder = Path(info.folder)
    index = read_json(folder / "model_index.json", "")
    second = has_second_transformer(index)
    with ThreadPoolExecutor(1, "tokenizer") as beside, torch.no_grad():
        tokenizer = beside.submit(read_tokenizer, folder / "tokenizer")
        high, low = folder / "transformer", folder / "transformer_2"
        return Modules(
            transformer=_transformer(high, device, dtype, make_ready),
            low_noise_transformer=_transformer(low, device, dtype, make_ready) if second else None,
            boundary=index.get("boundary_ratio"),
            vae=_vae(folder / "vae", device, dtype),
            text_encoder=_text_encoder(folder / "text_encoder", device, dtype),
            tokenizer=tokenizer.result(),
        )


def _transformer(folder: Path, device: torch.device, dtype: torch.dtype, make_ready: MakeReady | None) -> Any:
    parts = _made(folder, lambda config: WanParts(config))
    frame = None if make_ready is None else FrameTransformer(parts)

    def done(group: str) -> None:
        if frame is not None and make_ready is not None and group.startswith("blocks."):
            make_ready(frame.blocks[int(group.removeprefix("blocks."))])

    def dtype_of(name: str) -> torch.dtype:
        return dtype if KEPT_IN_FLOAT32.isdisjoint(name.split(".")) else torch.float32

    model = parts if frame is None else frame
    _fill(folder, model, OF_DIFFUSERS, Filling(device, dtype_of, blocks="blocks", done=done))
    return model.eval().requires_grad_(False)


def _vae(folder: Path, device: torch.device, dtype: torch.dtype) -> FrameVAE:
    config = vae_config(read_json(folder / "config.json", "the model has no vae"))
    frame = _made(folder, lambda _: FrameVAE(config))
    _fill(folder, frame, OF_DIFFUSERS, Filling(device, lambda name: dtype, live=live))
    frame.mean = frame.std = torch.empty(0, device=device)
    frame.normalise_by(torch.tensor(config.latents_mean), torch.tensor(config.latents_std))
    return frame.eval().requires_grad_(False)


def _text_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    if not UMT5Encoder.is_written_here(read_json(folder / "config.json", "the model has no text_encoder")):
        from wanbatch.pipeline.loading.reference import load_text_encoder  # takes seconds to import

        return load_text_encoder(folder, device, dtype)
    encoder = _made(folder, lambda config: UMT5Encoder(config))
    names = {"shared.weight": "encoder.embed_tokens.weight"}
    _fill(folder, encoder, OF_TRANSFORMERS, Filling(device, lambda name: dtype, "encoder.block", other_names=names))
    return encoder.eval().requires_grad_(False)


def _made(folder: Path, make: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The module of a part, without memory for its weights."""
    config = read_json(folder / "config.json", f"the model has no {folder.name}")
    try:
        with torch.device("meta"):
            return make(config)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'}: makes no {CLASSES[folder.name]} ({error})") from error


def _fill(folder: Path, module: torch.nn.Module, stem: str, filling: Filling) -> None:
    try:
        fill(module, stored_tensors(folder, stem), filling)
    except ValueError as error:
        raise UserError(f"{folder}: cannot be loaded as {CLASSES[folder.name]}: {error}") from error


def weight_bytes(info: ModelInfo) -> int:
    """The size of a model's weight files."""
    return sum(path.stat().st_size for path in Path(info.folder).rglob("*.safetensors"))
