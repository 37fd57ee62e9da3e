"""What the pipeline asks of a text encoder, of a diffusion transformer and of a VAE.

Batching, text and the facade know these protocols only. The modules of `wanbatch.pipeline.models` fulfil them; an
ahead-of-time engine that does can stand in for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor


class TextModel(Protocol):
    """Turns batches of tokens into states."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the states."""

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The states of a batch of tokens.

        Args:
            tokens: int64 [batch, length].
            mask: int64 [batch, length], 1 for tokens and 0 for padding.

        Returns:
            [batch, length, dim].
        """


class TextContext(Protocol):
    """What a transformer has made of a batch of prompts, of which no evaluation needs to make it again."""

    def first(self, count: int) -> Self:
        """Views of the first `count` prompts of the batch."""

    def repeated(self, count: int) -> Self:
        """A new batch of `count` copies of the first prompt."""

    def views(self, index: int) -> list[Tensor]:
        """Views of all that is held for one prompt of the batch, adapters aside; the same shapes for each prompt."""

    def with_adapters(self, adapters: Any) -> Self:
        """The same prompts, for rows whose adapters are in some stacks of the model (`AdapterSlots`)."""


class AdapterSlots(Protocol):
    """The adapters of the rows of a batch, slot by slot, in memory of fixed shape that stays where it is.

    Attributes:
        held: What is in which slot, for who fills them; batches may share the slots.
    """

    held: dict[int, Hashable]

    def fill(self, slot: int, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Put an adapter into a slot in place of what was there.

        Args:
            slot: Which.
            pairs: Diffusers' name of a linear layer of a block -> down [r, in] and up [out, r], on the model's
                device; what the layer gives is changed by `up @ down`.
        """


C = TypeVar("C", bound=TextContext)


class DenoisingModel(Protocol[C]):
    """A diffusion transformer that predicts the velocity of one-frame latents, one evaluation at a time.

    The result of a row must not depend on what else is in the batch, as long as the batch has the same size.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states and the velocity."""

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of the latents' part that is one token."""

    @property
    def dim(self) -> int:
        """Width of the hidden states."""

    @property
    def layers(self) -> int:
        """How many blocks there are."""

    @property
    def in_channels(self) -> int:
        """Of the latents."""

    @property
    def text_dim(self) -> int:
        """Width of the text embeddings."""

    def adapter_stacks(self, slots: int, rank: int, text: bool = False) -> AdapterSlots:
        """Empty stacks for adapters of rows.

        Args:
            slots: How many rows they hold.
            rank: Of the adapters of one row together, at most.
            text: Those that `context` takes; else those of `TextContext.with_adapters`.
        """

    def context(self, embeds: Tensor, lengths: Tensor, padded_length: int, adapters: Any = None) -> C:
        """What the model makes of a batch of prompts, once for all steps.

        Args:
            embeds: [batch, length, text_dim], zero past each prompt's own length.
            lengths: int64 [batch], tokens of each prompt.
            padded_length: Tokens that the model was trained to see of each prompt, padding included.
            adapters: Stacks with the adapters of the prompts, one a slot; None for none.
        """

    def __call__(self, latents: Tensor, timestep: Tensor, context: C) -> Tensor:
        """The velocity, [batch, channels, height, width], with every block run.

        Args:
            latents: [batch, channels, height, width].
            timestep: [batch], float, noise level times 1000.
            context: Of the batch's prompts.
        """

    def forward_recording(self, latents: Tensor, timestep: Tensor, context: C, span: range) -> tuple[Tensor, Tensor]:
        """The velocity, and what the blocks of `span` added to the hidden states, [batch, tokens, dim]."""

    def forward_reusing(self, latents: Tensor, timestep: Tensor, context: C, span: range, residual: Tensor) -> Tensor:
        """The velocity, with `residual` [batch, tokens, dim] added in place of the blocks of `span`."""


AnyDenoisingModel = DenoisingModel[Any]


class VAE(Protocol):
    """An autoencoder for single pictures. Latents are normalised."""

    def encode(self, images: Tensor) -> Tensor:
        """The mode of the posterior: [batch, 3, height, width] in [-1, 1] -> [batch, channels, rows, columns]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, clamped to [-1, 1]."""


ReplacedStages = Callable[[int, int, int], Mapping[str, str]]
"""What runs in place of a model's own parts: a picture's width and height, rows of its batch -> stage -> name."""
