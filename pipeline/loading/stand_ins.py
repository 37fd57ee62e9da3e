"""A model's parts with two blocks each and zeros for weights: what runs like the model before its weights are read.

Configurations are those of the model's folder, so every product, attention and kernel has the shapes, dtypes and
strides that the model's own have. They take no time to make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.loading.filling import kept_tensors
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import block_maker, text_maker
from wanbatch.pipeline.loading.tokenizer import Tokens
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.models.vae_config import vae_config
from wanbatch.pipeline.models.wan_parts import WanParts, dtype_of_parameter

BLOCKS = 2
"""Of the transformer and of the text encoder: a first one, and one that adds up what the one before it left over."""

STAND_IN_BYTES = 3 << 30
"""Of a device, at most, that the weights of stand-ins take."""

VOCABULARY = 16  # tokens of the text encoder; only how many numbers each has decides what is run


def text_of(tokens: int) -> str:
    """A prompt that has this many tokens for the tokenizer of stand-ins."""
    return f"{tokens} tokens"


class TokensByNumber:
    """The tokenizer of stand-ins, which knows no texts but those of `text_of`."""

    pad_token_id = 0

    def __call__(self, texts: Sequence[str], truncation: bool, max_length: int) -> Tokens:
        """As many tokens as each text says, at most `max_length`. They are cut in any case."""
        return Tokens([[self.pad_token_id] * min(max_length, int(text.partition(" ")[0])) for text in texts])


def text_encoder_is_written_here(info: ModelInfo) -> bool:
    """Whether a model's text encoder is one that a stand-in can be made of.

    Raises:
        UserError: Its configuration cannot be read.
    """
    return UMT5Encoder.is_written_here(_config(info, "text_encoder"))


@torch.no_grad()
def stand_ins(info: ModelInfo, device: torch.device, dtype: torch.dtype, runtime: Runtime) -> Modules:
    """Parts like those of a model.

    Args:
        info: Of the model, from `registry.find`. Of two transformers, which are alike, one is made.
        device: Where they are.
        dtype: Of the model.
        runtime: How it is run.

    Raises:
        UserError: A configuration cannot be read.
    """
    return Modules(
        transformer=_transformer(_config(info, "transformer"), device, dtype, runtime),
        low_noise_transformer=None,
        boundary=None,
        vae=_vae(_config(info, "vae"), device, dtype),
        text_encoder=_text_encoder(_config(info, "text_encoder"), device, dtype, runtime),
        tokenizer=TokensByNumber(),
    )


def _config(info: ModelInfo, part: str) -> dict[str, Any]:
    return read_json(Path(info.folder) / part / "config.json", f"the model has no {part}")


def _transformer(
    config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, runtime: Runtime
) -> FrameTransformer:
    with torch.device("meta"):
        frame = FrameTransformer(WanParts({**config, "num_layers": BLOCKS}))
    _fill_with_zeros(frame, device, lambda name: dtype_of_parameter(name, dtype))
    make_ready = block_maker(runtime, device)
    for block in frame.blocks:
        make_ready(block)
    return frame


def _text_encoder(
    config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, runtime: Runtime
) -> UMT5Encoder:
    with torch.device("meta"):
        encoder = UMT5Encoder({**config, "num_layers": BLOCKS, "vocab_size": VOCABULARY})
    _fill_with_zeros(encoder, device, lambda name: dtype)
    make_ready = text_maker(runtime, device)
    if make_ready is not None:
        for part in ("shared", *(f"encoder.block.{index}" for index in range(BLOCKS))):
            make_ready(encoder, part)
    return encoder


def _vae(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> FrameVAE:
    fields = vae_config(config)
    with torch.device("meta"):
        frame = FrameVAE(fields)
    _fill_with_zeros(frame, device, lambda name: dtype)
    frame.mean = frame.std = torch.empty(0, device=device)
    frame.normalise_by(torch.tensor(fields.latents_mean), torch.tensor(fields.latents_std))
    return frame


def _fill_with_zeros(module: nn.Module, device: torch.device, dtype_of: Callable[[str], torch.dtype]) -> None:
    """Give a module that was made on `meta` zeros for all that files would keep of it, and its own tables."""
    for name, like in kept_tensors(module).items():
        owner_name, _, leaf = name.rpartition(".")
        zeros: Tensor = torch.zeros(like.shape, dtype=dtype_of(name), device=device)
        module.get_submodule(owner_name)._parameters[leaf] = nn.Parameter(zeros, requires_grad=False)
    for part in module.modules():
        for name, table in part._buffers.items():
            if table is not None and not table.is_meta:
                part._buffers[name] = table.to(device)
    module.eval().requires_grad_(False)
