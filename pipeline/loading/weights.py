"""Loading a model's weights, safetensors only, straight onto the device that they are for.

Modules are made without memory (`meta`), and each tensor is read to where it stays, several at once; a block of the
transformer is made ready (joined, quantised) as soon as it is there, so that no second copy of the model is needed.
Neither diffusers nor transformers is imported, unless a model has a text encoder or a tokenizer of a kind that is not
written here (`reference.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.loading.converted import CONVERTED_STEM, Converted
from wanbatch.pipeline.loading.filling import Filling, fill, never
from wanbatch.pipeline.loading.model_form import CLASSES, has_second_transformer
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.tokenizer import read_tokenizer
from wanbatch.pipeline.loading.weight_files import stored_tensors
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.dit_block import FrameBlock
from wanbatch.pipeline.models.fp8 import FORMAT as FP8
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder
from wanbatch.pipeline.models.vae import FrameVAE, live
from wanbatch.pipeline.models.vae_config import vae_config
from wanbatch.pipeline.models.wan_parts import WanParts, dtype_of_parameter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OF_DIFFUSERS, OF_TRANSFORMERS = "diffusion_pytorch_model", "model"  # what these call their files of weights
STEMS = {name: OF_TRANSFORMERS if name == "text_encoder" else OF_DIFFUSERS for name in CLASSES}
"""What the files of each part's weights are called."""

UNUSED = "norm_added_q"  # of a transformer; diffusers leaves it out, too

MakeReady = Callable[[FrameBlock], None]
"""Makes a block of the transformer ready to be run, once its weights are there."""

TextReady = Callable[[UMT5Encoder, str], None]
"""The same of a part of the text encoder, by its name: `shared`, or a block such as `encoder.block.3`."""


def load(
    info: ModelInfo,
    device: torch.device,
    dtype: torch.dtype,
    make_ready: MakeReady | None = None,
    text_ready: TextReady | None = None,
    tokenizer: Future[Any] | None = None,
    stopped: Callable[[], bool] = never,
) -> Modules:
    """Load the parts of a model onto a device.

    Args:
        info: Of the model, from `registry.find`.
        device: Where the parts go.
        dtype: Of all parts.
        make_ready: Called for each block of the transformers as soon as it is there; None: they stay as they are.
        text_ready: The same for the text encoder's blocks and its embedding.
        tokenizer: That somebody reads already; None: it is read here.
        stopped: Whether nobody waits for the model any more; asked between its blocks, in any thread.

    Raises:
        UserError: If a part's files do not make the module that they should.
        CancelledError: It was stopped.
    """
    folder = Path(info.folder)
    index = read_json(folder / "model_index.json", "")
    second = has_second_transformer(index)
    part = partial(
        load_part, info, device=device, dtype=dtype, make_ready=make_ready, text_ready=text_ready, stopped=stopped
    )
    with ThreadPoolExecutor(1, "tokenizer") as beside:
        tokenizer = tokenizer or beside.submit(read_tokenizer, folder / "tokenizer")
        return Modules(
            transformer=part("transformer"),
            low_noise_transformer=part("transformer_2") if second else None,
            boundary=index.get("boundary_ratio"),
            vae=part("vae"),
            text_encoder=part("text_encoder"),
            tokenizer=tokenizer.result(),
        )


@torch.no_grad()
def load_part(
    info: ModelInfo,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    make_ready: MakeReady | None = None,
    text_ready: TextReady | None = None,
    stopped: Callable[[], bool] = never,
) -> Any:
    """Load one part of a model onto a device, see `load`.

    Args:
        info: Of the model.
        name: Of the part's folder, such as `transformer`.
        device: Where it goes.
        dtype: Of it.
        make_ready: Called for each block of a transformer as soon as it is there; None: they stay as they are.
        text_ready: The same for a text encoder.
        stopped: See `load`.

    Raises:
        UserError: If its files do not make it.
        CancelledError: It was stopped.
    """
    if info.converted is not None and make_ready is None:
        raise UserError(f"{info.name}: was converted for runs alone: --model {info.converted.source}")
    to = _To(Path(info.folder) / name, device, dtype, info.converted, stopped)
    if name == "vae":
        return _vae(to)
    return _text_encoder(to, text_ready) if name == "text_encoder" else _transformer(to, make_ready)


@dataclass(frozen=True, slots=True)
class _To:
    """Where a part is, and what it becomes."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    converted: Converted | None
    stopped: Callable[[], bool]

    def fill(self, module: nn.Module, filling: Filling, places: Collection[str] | None = None) -> Any:
        """Fill a module; places: all names that its files may have, None: others are left where they are."""
        try:
            stem = STEMS[self.folder.name] if self.converted is None else CONVERTED_STEM
            stored = stored_tensors(self.folder, stem)
            _ensure_places(stored, places)
            fill(module, stored, replace(filling, stopped=self.stopped))
        except ValueError as error:
            raise UserError(f"{self.folder}: cannot be loaded as {CLASSES[self.folder.name]}: {error}") from error
        return module.eval().requires_grad_(False)

    def dtype_of(self, name: str, stored: torch.dtype) -> torch.dtype:
        """What a tensor of a name is converted to."""
        return stored if stored == FP8 or name.endswith(".scale") else self.dtype


def _transformer(to: _To, make_ready: MakeReady | None) -> Any:
    parts = _made(to.folder, lambda config: WanParts(config))
    places = set(parts.state_dict()) if to.converted is None else None
    if make_ready is None:
        return to.fill(parts, Filling(to.device, partial(_dtype_in_transformer, to)), places)
    frame = FrameTransformer(parts)
    rounded = to.converted is not None and to.converted.precision == "fp8"
    if to.converted is not None:  # its blocks are joined already, and may be in FP8
        for block in frame.blocks:
            (make_ready if rounded else FrameBlock.fuse)(block)

    def done(group: str) -> None:
        if group.startswith("blocks.") and not rounded:
            block = frame.blocks[int(group.removeprefix("blocks."))]
            if to.converted is not None:
                block.share_joined()
            make_ready(block)

    return to.fill(frame, Filling(to.device, partial(_dtype_in_transformer, to), "blocks", done=done), places)


def _ensure_places(stored: Collection[str], places: Collection[str] | None) -> None:
    """Check that a module takes all tensors of its files: without one it would silently be another model."""
    others = [] if places is None else sorted(name for name in stored if name not in places and UNUSED not in name)
    if others:
        raise ValueError(
            f"its files have {others[0]} and {len(others) - 1} more for parts that it does not have, such as "
            "a sparse attention: take the weights of a model without them"
        )


def _dtype_in_transformer(to: _To, name: str, stored: torch.dtype) -> torch.dtype:
    return dtype_of_parameter(name, to.dtype_of(name, stored))


def _vae(to: _To) -> FrameVAE:
    config = vae_config(read_json(to.folder / "config.json", "the model has no vae"))
    frame = _made(to.folder, lambda _: FrameVAE(config))
    to.fill(frame, Filling(to.device, to.dtype_of, live=live))
    frame.mean = frame.std = torch.empty(0, device=to.device)
    frame.normalise_by(torch.tensor(config.latents_mean), torch.tensor(config.latents_std))
    return frame


def _text_encoder(to: _To, text_ready: TextReady | None) -> Any:
    if not UMT5Encoder.is_written_here(read_json(to.folder / "config.json", "the model has no text_encoder")):
        if text_ready is not None:
            raise UserError(f"{to.folder}: is of a kind that only transformers runs: leave out --text-precision fp8")
        from wanbatch.pipeline.loading.reference import load_text_encoder  # takes seconds to import

        return load_text_encoder(to.folder, to.device, to.dtype)
    encoder = _made(to.folder, lambda config: UMT5Encoder(config))
    names = {"shared.weight": "encoder.embed_tokens.weight"}

    def done(group: str) -> None:
        part = group.removesuffix(".weight")
        if text_ready is not None and (part == "shared" or part.startswith("encoder.block.")):
            text_ready(encoder, part)

    return to.fill(encoder, Filling(to.device, to.dtype_of, "encoder.block", done=done, other_names=names))


def _made(folder: Path, make: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The module of a part, without memory for its weights."""
    config = read_json(folder / "config.json", f"the model has no {folder.name}")
    try:
        with torch.device("meta"):
            return make(config)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'}: makes no {CLASSES[folder.name]} ({error})") from error


def weight_bytes(info: ModelInfo) -> int:
    """The size of a model's weight files."""
    return sum(path.stat().st_size for path in Path(info.folder).rglob("*.safetensors"))
