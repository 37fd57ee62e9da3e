"""Counting the tokens of prompts with a model's own tokenizer, without torch and transformers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import TEXT_TOKENS, clean

TOGETHER = 1024  # prompts that are tokenized at once
_BESIDE_TEXT = 2  # tokens that no character stands for: the space before the first word, and the end


class TokenCounter:
    """Counts tokens as the pipeline's text encoder does.

    Args:
        model_folder: Where the model's files are.

    Raises:
        UserError: If the tokenizer is damaged.
    """

    def __init__(self, model_folder: str):
        path = Path(model_folder, "tokenizer", "tokenizer.json")
        self._tokenizer = None
        if path.exists():
            self._tokenizer = _read(path)

    @property
    def can_count(self) -> bool:
        """Whether the model has a tokenizer in the form that can be read here."""
        return self._tokenizer is not None

    def longer_than_read(self, prompts: Iterable[str], read: int = TEXT_TOKENS) -> dict[str, int]:
        """Of these prompts, those with more tokens than the model reads; prompt -> how many more.

        Only prompts that have as many bytes are tokenized: no token is less than a byte. If the model's tokenizer
        cannot be read, these are given, with 0.

        Args:
            prompts: As rows have them.
            read: How many tokens the model reads of each.
        """
        candidates = [prompt for prompt in prompts if _may_be_longer(prompt, read)]
        if self._tokenizer is None:
            return dict.fromkeys(candidates, 0)
        found: dict[str, int] = {}
        for first in range(0, len(candidates), TOGETHER):
            some = candidates[first : first + TOGETHER]
            encoded = self._tokenizer.encode_batch_fast([clean(prompt) for prompt in some])
            counts = [len(one.ids) for one in encoded]
            found |= {prompt: n - read for prompt, n in zip(some, counts, strict=True) if n > read}
        return found


def _read(path: Path):
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({error}): restore the model's files") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _may_be_longer(prompt: str, read: int) -> bool:
    if prompt.isascii():
        return len(prompt) + _BESIDE_TEXT > read
    return len(unicodedata.normalize("NFKC", prompt).encode()) + _BESIDE_TEXT > read
