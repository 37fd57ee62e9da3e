"""The teacher: what a frozen model makes of captions, recorded once, for an adapter to reproduce from sounds.

No pictures are needed. The model makes one from noise for each caption, in a few steps, and what its attention to the
text is asked on the way (the queries) is kept, with the latents and what the model said of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.text_context import CrossAttentionContext

LEVELS = (1.0, 0.92, 0.8, 0.6)
"""Noise levels at which the model is listened to: what a picture shows is decided early."""


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What was recorded of some captions, each with all `LEVELS`.

    Attributes:
        queries: fp16 [captions, levels, layers, queries, dim], of a few random places of the picture.
        latents: fp16 [captions, levels, channels, height, width].
        velocities: as `latents`.
    """

    queries: Tensor
    latents: Tensor
    velocities: Tensor


class Teacher:
    """A frozen transformer and the embeddings of captions.

    Args:
        model: the transformer, whose weights get no gradients from here on.
        embeddings: of each caption, [tokens, dim].
        empty: of the empty prompt, which stands before the tokens of a sound.
    """

    def __init__(self, model: FrameTransformer, embeddings: Sequence[Tensor], empty: Tensor):
        self.model = model.requires_grad_(False)
        self.device = next(model.parameters()).device
        self.embeddings = [embedding.to(self.device).float() for embedding in embeddings]
        self.empty = empty.to(self.device).float()
        self.length = max(len(embedding) for embedding in self.embeddings)

    @property
    def scale(self) -> float:
        """Root mean square of the embeddings."""
        return float(torch.cat(self.embeddings).square().mean().sqrt())

    def of_captions(self, indices: Sequence[int]) -> CrossAttentionContext:
        """What the attention sees of some captions."""
        texts = [self.embeddings[index] for index in indices]
        padded = torch.stack([F.pad(text, (0, 0, 0, self.length - len(text))) for text in texts])
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        return self.model.context(padded, lengths, TEXT_TOKENS)

    def of_sounds(self, tokens: Tensor) -> CrossAttentionContext:
        """What it sees of the tokens of sounds [batch, tokens, dim] after the empty prompt."""
        texts = torch.cat([self.empty.expand(len(tokens), -1, -1), tokens], dim=1)
        lengths = torch.full((len(tokens),), texts.shape[1], device=self.device)
        return self.model.context(texts, lengths, TEXT_TOKENS)

    @torch.no_grad()
    def record(
        self, indices: Sequence[int], shape: tuple[int, int, int], generator: torch.Generator, queries: int = 8
    ) -> Lessons:
        """Make a picture for each of some captions and keep what happens on the way.

        Args:
            indices: of the captions.
            shape: channels, height and width of latents.
            generator: of the noise, on the CPU.
            queries: how many places of each picture are kept.
        """
        context = self.of_captions(indices)
        latents = torch.randn(len(indices), *shape, generator=generator).to(self.device)
        kept: list[list[Tensor]] = [[], [], []]
        heard: list[Tensor] = []
        hooks = [
            block.attn2.norm_q.register_forward_hook(lambda *args: heard.append(args[2])) for block in self.blocks
        ]
        for level, following in zip(LEVELS, (*LEVELS[1:], 0.0), strict=True):
            heard.clear()
            velocity = self.model(latents, torch.full((len(indices),), level * 1000.0, device=self.device), context)
            places = torch.randint(heard[0].shape[1], (queries,), generator=generator).to(self.device)
            kept[0].append(torch.stack([asked[:, places] for asked in heard], dim=1).half())
            kept[1].append(latents.half())
            kept[2].append(velocity.half())
            latents = latents + (following - level) * velocity.float()
        for hook in hooks:
            hook.remove()
        return Lessons(*(torch.stack(part, dim=1) for part in kept))

    @property
    def blocks(self) -> Any:
        """Of the transformer."""
        return self.model.blocks

    def answers(self, context: CrossAttentionContext, queries: Tensor) -> Tensor:
        """What the attention to the text answers: [batch, layers, queries, dim] of queries of the same shape."""
        answers = []
        for index, block in enumerate(self.blocks):
            asked = queries[:, index].unflatten(2, (block.heads, -1)).transpose(1, 2)
            keys, values = context.keys[index], context.values[index]
            attended = F.scaled_dot_product_attention(asked, keys, values, attn_mask=context.bias)
            answers.append(block.attn2.to_out[0](attended.transpose(1, 2).flatten(2)))
        return torch.stack(answers, dim=1)
