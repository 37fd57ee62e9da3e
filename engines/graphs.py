"""The graphs that engines are built of: each part of a model as a module of plain tensors, with example inputs.

A graph has one fixed size: that of a picture and, for the transformer, of the batch. Lengths of texts stay open, so
that one engine takes every length that the pipeline pads texts to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wanbatch.engines.labels import DECODER, ENCODER, TEXT, TRANSFORMER, label_of
from wanbatch.pipeline.core.prompts import PADDING_KEYS, TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.text_context import CrossAttentionContext
from wanbatch.pipeline.models.vae import FrameVAE

SHORTEST_TEXT = 16
EXAMPLE_LENGTH = 48
EXAMPLE_PROMPTS, MOST_PROMPTS = 8, 128
HALVES = (torch.bfloat16, torch.float16)
LENGTH, PROMPTS = "length", "prompts"  # names of open dimensions


@dataclass(frozen=True, slots=True)
class OpenDimension:
    """A dimension of an input whose size is open.

    Attributes:
        name: The same name means the same size, in whichever input.
        least: The smallest size.
        most: The largest size.
    """

    name: str
    least: int
    most: int


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A part of a model that one engine is built of.

    Attributes:
        component: `text`, `dit`, `dit_2` (the second expert), `vae-encode` or `vae-decode`.
        module: Takes the inputs by position and returns one tensor.
        inputs: Examples, by name.
        output: Name of what it returns.
        width: Of the picture, in pixels; 0: the graph has none.
        height: As `width`.
        rows: Sequences in the batch of the transformer; 1 for what takes one picture or prompt; 0: open.
        open: Dimensions that are not fixed, by input and number.
    """

    component: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: str
    width: int = 0
    height: int = 0
    rows: int = 1
    open: Mapping[str, Mapping[int, OpenDimension]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The graph in words, such as `dit 128x128, 8 rows`."""
        return label_of(self.component, self.width, self.height, self.rows)

    def shapes(self) -> dict[str, list[int | str]]:
        """Of each input: sizes, or the names of open ones."""
        return {
            name: [
                dimensions[index].name if index in dimensions else size for index, size in enumerate(example.shape)
            ]
            for name, example in self.inputs.items()
            for dimensions in [self.open.get(name, {})]
        }

    def example_of(self, **sizes: int) -> tuple[Tensor, ...]:
        """The example inputs with open dimensions of other sizes; numbers repeat or are cut off.

        Args:
            sizes: By the names of open dimensions.
        """
        return tuple(self._resized(name, example, sizes) for name, example in self.inputs.items())

    def _resized(self, name: str, example: Tensor, sizes: Mapping[str, int]) -> Tensor:
        wanted = {index: sizes[one.name] for index, one in self.open.get(name, {}).items() if one.name in sizes}
        for index, size in wanted.items():
            numbers = torch.arange(size, device=example.device) % example.shape[index]
            example = example.index_select(index, numbers)
        return example.contiguous() if wanted else example


class DenoisingStep(nn.Module):
    """One evaluation of a transformer for one size: the tables of the position embedding are constants.

    Args:
        transformer: Run block by block, without our own kernels.
        height: Of the latents.
        width: Of the latents.
        device: Of the tables.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, transformer: FrameTransformer, height: int, width: int, device: torch.device):
        super().__init__()
        self.transformer = transformer
        rows, columns = transformer.patch
        cosines, sines = transformer.rotary(height // rows, width // columns, device)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, latents: Tensor, timestep: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """The velocity, in the dtype of the keys.

        See `FrameTransformer.forward` and, for what the text gives, `CrossAttentionContext`.
        """
        dtype = self.transformer.dtype
        context = CrossAttentionContext(_as(dtype, keys), _as(dtype, values), _as(dtype, bias))
        velocity = self.transformer(latents, timestep, context, rotary=(self.cosines, self.sines))
        return _as(keys.dtype, velocity)


class Encoding(nn.Module):
    """The direction of a VAE that makes latents."""

    def __init__(self, vae: FrameVAE):
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> Tensor:
        """Normalised latents of images in [-1, 1], in their dtype."""
        return _as(images.dtype, self.vae.encode(images))


class Decoding(nn.Module):
    """The direction of a VAE that makes pictures."""

    def __init__(self, vae: FrameVAE):
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of normalised latents, in their dtype."""
        return _as(latents.dtype, self.vae.decode(latents))


def text_graph(model: nn.Module, rows: int, device: torch.device) -> Graph:
    """The graph of a text encoder for prompts of any length.

    Args:
        model: Fulfils `TextModel`.
        rows: Prompts in a batch, 1; or 0 for any number from 2 on.
        device: Of the example.
    """
    shape = rows or EXAMPLE_PROMPTS, EXAMPLE_LENGTH
    tokens = torch.arange(1, shape[0] * shape[1] + 1, device=device).view(shape) % 61 + 2
    mask = torch.ones_like(tokens)
    mask[:, EXAMPLE_LENGTH * 3 // 4 :] = 0
    opened = {1: OpenDimension(LENGTH, SHORTEST_TEXT, TEXT_TOKENS)}
    if rows == 0:
        opened[0] = OpenDimension(PROMPTS, 2, MOST_PROMPTS)
    both = {"tokens": opened, "mask": opened}
    return Graph(TEXT, model, {"tokens": tokens, "mask": mask}, "states", rows=rows, open=both)


def step_graph(
    transformer: FrameTransformer,
    size: tuple[int, int],
    stride: int,
    rows: int,
    device: torch.device,
    component: str = TRANSFORMER,
) -> Graph:
    """The graph of one evaluation of a transformer for pictures of one size and texts of any length.

    Args:
        transformer: Without our own kernels.
        size: Width and height of a picture, in pixels.
        stride: Pixels of a picture for each place of a latent, in either direction.
        rows: Sequences in the batch: slots, or twice as many with guidance.
        device: Where the transformer is.
        component: `dit`, or `dit_2` for a second expert.
    """
    width, height = size
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, transformer.in_channels, height // stride, width // stride, generator=generator)
    timestep = torch.linspace(20.0, 980.0, rows)
    embeds = torch.randn(rows, EXAMPLE_LENGTH - PADDING_KEYS, transformer.text_dim, generator=generator)
    lengths = torch.full((rows,), EXAMPLE_LENGTH * 3 // 4)
    context = transformer.context(embeds.to(device), lengths.to(device), TEXT_TOKENS)
    inputs = {
        "latents": latents.to(device),
        "timestep": timestep.to(device),
        "keys": context.keys.contiguous(),
        "values": context.values.contiguous(),
        "bias": context.bias.contiguous(),
    }
    length = OpenDimension(LENGTH, SHORTEST_TEXT, TEXT_TOKENS + PADDING_KEYS)
    opened = {"keys": {3: length}, "values": {3: length}, "bias": {3: length}}
    step = DenoisingStep(transformer, height // stride, width // stride, device)
    return Graph(component, step, inputs, "velocity", width, height, rows, opened)


def vae_graphs(
    vae: FrameVAE, size: tuple[int, int], stride: int, channels: int, dtype: torch.dtype, device: torch.device
) -> Sequence[Graph]:
    """The graphs of both directions of a VAE for one picture of one size.

    Args:
        vae: As it is run on the device.
        size: Width and height of the picture, in pixels.
        stride: Pixels of a picture for each place of a latent, in either direction.
        channels: Of the latents.
        dtype: Of images and latents.
        device: Where the VAE is.
    """
    width, height = size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    latents = torch.randn(1, channels, height // stride, width // stride, generator=generator)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    images, latents = (laid_out(one.to(device, dtype), layout) for one in (images, latents))
    return (
        Graph(ENCODER, Encoding(vae), {"images": images}, "latents", width, height),
        Graph(DECODER, Decoding(vae), {"latents": latents}, "images", width, height),
    )


def in_float32(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of a graph with float32 in the place of bf16 and float16."""
    return {name: one.float() if one.dtype in HALVES else one for name, one in inputs.items()}


def laid_out(tensor: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """A tensor with exactly the strides of a new one, which engines ask for: itself if it has them, else a copy."""
    wanted = torch.empty(tensor.shape, device="meta", memory_format=layout).stride()
    if tensor.stride() == wanted:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout).copy_(tensor)


def _as(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """A tensor in a dtype; where it is in that already, a traced graph has nothing of it."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
