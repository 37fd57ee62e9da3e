"""Engines in the place of a loaded model's parts, each for the sizes that it was built for.

Each fulfils the protocol of `pipeline.core.backends` that the part fulfils, on the same stream; inputs are copied
only if their strides are not those that an engine takes. What no engine was built for goes to the part itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from wanbatch.engines import aot, graphs
from wanbatch.engines.labels import DECODER, ENCODER, SECOND_TRANSFORMER, TEXT
from wanbatch.engines.selection import STAGES, TRANSFORMERS
from wanbatch.engines.store import Store
from wanbatch.engines.stored_engine import AOT, StoredEngine
from wanbatch.pipeline.core.backends import VAE, TextModel
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.text_context import CrossAttentionContext
from wanbatch.pipeline.models.vae import FrameVAE


class EngineTextModel:
    """A text encoder of which an engine makes the states.

    Args:
        model: What it stands in for.
        engine: See `graphs.text_graph`.
        rows: What the engine was built for: 1 prompt, or 0 for any number from 2 on.
    """

    def __init__(self, model: TextModel, engine: aot.Engine, rows: int):
        self._model, self._engine, self._rows = model, engine, rows

    @property
    def dtype(self) -> torch.dtype:
        """Of the states."""
        return self._model.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.device

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The states of a batch of tokens, see `TextModel`."""
        prompts, length = tokens.shape
        fits = prompts == 1 if self._rows == 1 else 2 <= prompts <= graphs.MOST_PROMPTS
        if not fits or not graphs.SHORTEST_TEXT <= length <= TEXT_TOKENS:
            return self._model(tokens, mask)
        return self._engine(tokens, mask)


class EngineTransformer:
    """A transformer of which engines make whole evaluations; those with a residual or adapters are its own.

    Args:
        transformer: What it stands in for.
        engines: By the shape of the latents.
    """

    def __init__(self, transformer: FrameTransformer, engines: Mapping[tuple[int, ...], aot.Engine]):
        self._transformer, self._engines = transformer, engines

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transformer, name)

    def __call__(self, latents: Tensor, timestep: Tensor, context: CrossAttentionContext) -> Tensor:
        """The velocity, see `DenoisingModel`."""
        engine = self._engines.get(tuple(latents.shape))
        if engine is None or context.adapters is not None:
            return self._transformer(latents, timestep, context)
        given = latents, timestep, context.keys, context.values, context.bias
        return engine(*map(graphs.laid_out, given))


class EngineVAE:
    """A VAE of which engines run the sizes that they were built for.

    Args:
        vae: What it stands in for.
        encoders: By the shape of the images.
        decoders: By the shape of the latents.
    """

    def __init__(
        self,
        vae: VAE,
        encoders: Mapping[tuple[int, ...], aot.Engine],
        decoders: Mapping[tuple[int, ...], aot.Engine],
    ):
        self._vae, self._encoders, self._decoders = vae, encoders, decoders

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents of images, see `VAE`."""
        engine = self._encoders.get(tuple(images.shape))
        return self._vae.encode(images) if engine is None else engine(graphs.laid_out(images, _layout(images)))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of normalised latents, see `VAE`."""
        engine = self._decoders.get(tuple(latents.shape))
        return self._vae.decode(latents) if engine is None else engine(graphs.laid_out(latents, _layout(latents)))


def _layout(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.is_cuda else torch.contiguous_format


@dataclass(frozen=True, slots=True)
class LoadedParts:
    """The parts of a loaded model that engines run on.

    Attributes:
        text: The text encoder, as transformers runs it where there are engines of it.
        transformers: One, or two experts.
        vae: What runs both directions now.
        vae_module: The module whose weights engines of it take.
        stride: Pixels of a picture for each place of a latent, in either direction.
        channels: Of the latents.
        dtype: Of the weights.
        device: Where they are.
    """

    text: TextModel
    transformers: Sequence[FrameTransformer]
    vae: VAE
    vae_module: FrameVAE
    stride: int
    channels: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class EngineParts:
    """A model's parts with engines in their place.

    Attributes:
        text: The text encoder.
        transformers: One, or two experts.
        vae: Both directions.
        built: Stages that engines run, each with the sizes (width, height, rows) that they are for.
        name: Of what runs these stages, for the records of pictures.
    """

    text: TextModel
    transformers: Sequence[Any]
    vae: VAE
    name: str
    built: Mapping[str, frozenset[tuple[int, int, int]]] = field(default_factory=dict)

    def stages(self, width: int, height: int, rows: int) -> dict[str, str]:
        """What runs the stages of a picture that engines run, by stage.

        Args:
            width: Of the picture, in pixels.
            height: As `width`.
            rows: Of its batch in the transformer.
        """
        found = {}
        for stage, built in self.built.items():
            size = {"text": (0, 0, 0), "denoise": (width, height, rows)}.get(stage, (width, height, 0))
            if size in built:
                found[stage] = self.name
        return found


def put_engines(parts: LoadedParts, store: Store, engines: Sequence[StoredEngine]) -> EngineParts:
    """Load engines and put them in the place of a model's parts.

    The model's weights must stay where they are in memory from now on.

    Args:
        parts: Of the model.
        store: Where the engines are.
        engines: That fit, see `selection.select`.

    Raises:
        UserError: An engine cannot be loaded, or is of a model of another form.
    """
    text, vae = parts.text, parts.vae
    experts: list[dict[tuple[int, ...], aot.Engine]] = [{} for _ in parts.transformers]
    directions: dict[str, dict[tuple[int, ...], aot.Engine]] = {ENCODER: {}, DECODER: {}}
    built: dict[str, set[tuple[int, int, int]]] = {}
    for one in engines:
        key, path = one.key, store.path_of(one)
        latent = (parts.channels, key.height // parts.stride, key.width // parts.stride)
        if key.component == TEXT:
            text = EngineTextModel(parts.text, aot.load(path, cast(torch.nn.Module, parts.text)), key.rows)
            size = (0, 0, 0)
        elif key.component in TRANSFORMERS:
            index = int(key.component == SECOND_TRANSFORMER)
            step = graphs.DenoisingStep(parts.transformers[index], latent[1], latent[2], parts.device)
            experts[index][key.rows, *latent] = aot.load(path, step)
            size = (key.width, key.height, key.rows)
        else:
            module = (graphs.Encoding if key.component == ENCODER else graphs.Decoding)(parts.vae_module)
            shape = (3, key.height, key.width) if key.component == ENCODER else latent
            directions[key.component][1, *shape] = aot.load(path, module)
            size = (key.width, key.height, 0)
        built.setdefault(STAGES[key.component], set()).add(size)
    if directions[ENCODER] or directions[DECODER]:
        vae = EngineVAE(parts.vae, directions[ENCODER], directions[DECODER])
    transformers = [
        EngineTransformer(one, loaded) if loaded else one
        for one, loaded in zip(parts.transformers, experts, strict=True)
    ]
    name = f"{AOT}-{str(parts.dtype).removeprefix('torch.')}"
    return EngineParts(text, transformers, vae, name, {stage: frozenset(sizes) for stage, sizes in built.items()})
