"""Prompts to text embeddings: each distinct prompt once, real tokens only.

UMT5 masks its padding, so encoding a prompt alone and padding it later is exact. Prompts are encoded in batches
of a few fixed shapes, and a prompt's shape depends on its own length alone: its embedding then does not depend,
to the last bit, on which other prompts it was encoded with. What was encoded is kept in memory, up to a bound,
and on disk if there is a `TextCache` (`embedding_cache.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.core.backends import TextModel
from wanbatch.pipeline.core.device import to_device
from wanbatch.pipeline.core.prompts import ENCODER_LENGTHS, TEXT_TOKENS, clean
from wanbatch.pipeline.text.embedding_cache import TextCache

# Tokens in a batch on a GPU. A unit has few distinct prompts of each length, and an unused row of a batch costs as
# much as a used one; but below some hundred tokens, reading the encoder's weights takes longer than its products.
GPU_TOKENS = 512
KEPT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, cleaned, and its tokens."""

    text: str
    tokens: list[int]

    @property
    def length(self) -> int:
        """What it is padded to."""
        return next(length for length in ENCODER_LENGTHS if length >= len(self.tokens))


class TextEncoder:
    """Encodes prompts as diffusers' `WanPipeline.encode_prompt` does, without its zero padding.

    Args:
        tokenizer: Of the model.
        model: What turns tokens into states.
        tokens: In each batch, prompts times length; 0 for one prompt a batch, the faster choice on a CPU.
        kept: Bytes of embeddings held in the device's memory, least recently used first out.
        cache: Embeddings on disk; None to keep none there.
        device: Where it works; None for where the model is.
        before_encoding: Called before the model is used; not if every prompt is known.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: TextModel,
        tokens: int = 0,
        kept: int = KEPT_BYTES,
        cache: TextCache | None = None,
        device: torch.device | None = None,
        before_encoding: Callable[[], None] = lambda: None,
    ):
        self.tokenizer, self.model = tokenizer, model
        self.tokens, self.kept, self.cache = tokens, kept, cache
        self.device = device or model.device
        self._before_encoding = before_encoding
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._held_bytes = 0

    @torch.inference_mode()
    def encode(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Embeddings [tokens, dim] of each distinct prompt, on the model's device, in its dtype."""
        cleaned = {prompt: clean(prompt) for prompt in dict.fromkeys(prompts)}
        found: dict[str, Tensor] = {}
        missing = []
        for text in dict.fromkeys(cleaned.values()):
            embedding = self._known(text)
            if embedding is None:
                missing.append(text)
            else:
                found[text] = embedding
        for text, embedding in self._encoded(missing):
            found[text] = embedding
            if self.cache is not None:
                self.cache.put(text, embedding)
        for text, embedding in found.items():
            self._hold(text, embedding)
        return {prompt: found[text] for prompt, text in cleaned.items()}

    def batch_size(self, length: int) -> int:
        """Prompts in each batch of a length."""
        return max(1, self.tokens // length)

    @property
    def held_bytes(self) -> int:
        """Bytes of the embeddings that are held in memory."""
        return self._held_bytes

    def forget(self) -> None:
        """Drop all embeddings held in memory."""
        self._held.clear()
        self._held_bytes = 0

    def _known(self, text: str) -> Tensor | None:
        """From memory, else from the disk."""
        if (held := self._held.get(text)) is not None or self.cache is None:
            return held
        stored = self.cache.get(text)
        return None if stored is None else stored.to(self.device, self.model.dtype)

    def _encoded(self, texts: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        if not texts:
            return
        self._before_encoding()
        groups: dict[int, list[_Prompt]] = {}
        tokens = self.tokenizer(list(texts), truncation=True, max_length=TEXT_TOKENS).input_ids
        for prompt in map(_Prompt, texts, tokens):
            groups.setdefault(prompt.length, []).append(prompt)
        for length, group in groups.items():
            for first in range(0, len(group), self.batch_size(length)):
                yield from self._encode_batch(group[first : first + self.batch_size(length)], length)

    def _encode_batch(self, group: Sequence[_Prompt], length: int) -> Iterator[tuple[str, Tensor]]:
        shape = (self.batch_size(length), length)
        tokens = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        mask[:, 0] = 1  # an unused row must attend to something
        for row, prompt in enumerate(group):
            tokens[row, : len(prompt.tokens)] = prompt.tokens
            mask[row, : len(prompt.tokens)] = 1
        states = self.model(to_device(tokens, self.device), to_device(mask, self.device))
        for row, prompt in enumerate(group):
            yield prompt.text, states[row, : len(prompt.tokens)].clone()

    def _hold(self, text: str, embedding: Tensor) -> None:
        if text not in self._held:
            self._held[text] = embedding
            self._held_bytes += embedding.nbytes
        self._held.move_to_end(text)
        while self._held_bytes > self.kept and self._held:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
