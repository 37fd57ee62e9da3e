"""Prompts to text embeddings: each distinct prompt once, real tokens only.

UMT5 masks its padding, so encoding a prompt alone and padding it later is exact. Prompts are encoded in batches
of a fixed number of places and a few fixed lengths: a prompt's embedding then does not depend, to the last bit,
on which other prompts it was encoded with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor

from wanbatch.pipeline.transformer import TEXT_TOKENS

LENGTHS = (32, 64, 128, 256, TEXT_TOKENS)  # what a prompt's tokens are padded to while they are encoded


class TextEncoder:
    """Encodes prompts as diffusers' `WanPipeline.encode_prompt` does, without its zero padding.

    places: prompts in each batch. kept: embeddings held in memory, least recently used first out.
    """

    def __init__(self, tokenizer, model, places: int = 1, kept: int = 4096):
        self.tokenizer, self.model = tokenizer, model
        self.places, self.kept = places, kept
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    @torch.inference_mode()
    def encode(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Embeddings [tokens, dim] of each distinct prompt, on the model's device, in its dtype."""
        wanted = list(dict.fromkeys(prompts))
        found = {prompt: self._cache[prompt] for prompt in wanted if prompt in self._cache}
        missing = [prompt for prompt in wanted if prompt not in found]
        for length, group in self._by_length(missing).items():
            for first in range(0, len(group), self.places):
                found.update(self._encode_batch(group[first : first + self.places], length))
        self._keep(found)
        return {prompt: found[prompt] for prompt in wanted}

    def forget(self) -> None:
        """Drop all kept embeddings."""
        self._cache.clear()

    def _by_length(self, prompts: Sequence[str]) -> dict[int, list[tuple[str, list[int]]]]:
        groups: dict[int, list[tuple[str, list[int]]]] = {}
        for prompt in prompts:
            tokens = self.tokenizer(prompt_clean(prompt), truncation=True, max_length=TEXT_TOKENS).input_ids
            length = next(length for length in LENGTHS if length >= len(tokens))
            groups.setdefault(length, []).append((prompt, tokens))
        return groups

    def _encode_batch(self, group: Sequence[tuple[str, list[int]]], length: int) -> dict[str, Tensor]:
        device = self.model.device
        tokens = torch.full((self.places, length), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros((self.places, length), dtype=torch.long)
        mask[:, 0] = 1  # an empty place must attend to something
        for place, (_, ids) in enumerate(group):
            tokens[place, : len(ids)] = torch.tensor(ids)
            mask[place, : len(ids)] = 1
        states = self.model(tokens.to(device), mask.to(device)).last_hidden_state
        return {prompt: states[place, : len(ids)].clone() for place, (prompt, ids) in enumerate(group)}

    def _keep(self, embeddings: dict[str, Tensor]) -> None:
        for prompt, embedding in embeddings.items():
            self._cache[prompt] = embedding
            self._cache.move_to_end(prompt)
        while len(self._cache) > self.kept:
            self._cache.popitem(last=False)
