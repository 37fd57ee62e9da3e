"""The tokenizer of a model's text encoder, without importing transformers where its files mean the same to both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError

AS_THE_FILE_SAYS = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""Classes of transformers that take `tokenizer.json` as it is."""

BUILT_ANEW = {"T5Tokenizer", "T5TokenizerFast"}
"""Classes of transformers that take the vocabulary and the character map of `tokenizer.json`, and decide the rest."""

T5_SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
T5_WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, T5_SPACES]}
T5_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
T5_EXTRA_IDS = 100  # where the configuration does not say


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of some texts.

    Attributes:
        input_ids: Of each text.
    """

    input_ids: list[list[int]]


class PromptTokenizer:
    """A tokenizer that is called as those of transformers are.

    Args:
        backend: A `tokenizers.Tokenizer`.
        pad_token_id: What texts are padded with.
    """

    def __init__(self, backend: Any, pad_token_id: int):
        self._backend = backend
        self.pad_token_id = pad_token_id
        backend.no_padding()

    def __call__(self, texts: Sequence[str], truncation: bool, max_length: int) -> Tokens:
        """The tokens of texts.

        Args:
            texts: As they are to be read.
            truncation: Whether to cut texts that are too long.
            max_length: Of each, in tokens, its end included.
        """
        if truncation:
            self._backend.enable_truncation(max_length)
        else:
            self._backend.no_truncation()
        return Tokens([one.ids for one in self._backend.encode_batch_fast(list(texts))])

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        return self._backend.decode(list(tokens), skip_special_tokens=skip_special_tokens)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model: a `PromptTokenizer`, or the one that transformers makes where it may be another.

    Args:
        folder: With `tokenizer.json` or another form of the vocabulary.

    Raises:
        UserError: It cannot be read.
    """
    try:
        pad = _padding_of_plain_one(folder)
        if pad is not None:
            from tokenizers import Tokenizer

            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
            number = backend.token_to_id(pad)
            if number is not None:
                return PromptTokenizer(backend, number)
        from transformers import AutoTokenizer  # takes a second to import

        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded ({error}): restore the model's files") from error


def _padding_of_plain_one(folder: Path) -> str | None:
    """The padding token, if transformers makes of these files what `tokenizer.json` says; None: perhaps not."""
    file, beside = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.is_file() or not beside.is_file() or (folder / "added_tokens.json").exists():
        return None
    said, given = json.loads(file.read_text(encoding="utf-8")), json.loads(beside.read_text(encoding="utf-8"))
    of_class = given.get("tokenizer_class")
    special = {name: _content(given.get(name)) for name in T5_SPECIAL}
    if of_class in BUILT_ANEW:
        special = {name: special[name] or usual for name, usual in T5_SPECIAL.items()}
        if not _is_what_t5_builds(said, given):
            return None
    elif of_class not in AS_THE_FILE_SAYS:
        return None
    there = {one["content"] for one in said.get("added_tokens", [])} | _vocabulary(said)
    wanted = {*special.values(), *map(_content, given.get("extra_special_tokens") or [])} - {None}
    return special["pad_token"] if wanted <= there else None


def _is_what_t5_builds(said: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether `tokenizer.json` says of everything what transformers' T5 decides without asking it."""
    model, ending = said.get("model", {}), said.get("post_processor") or {}
    single = [next(iter(step.values())).get("id") for step in ending.get("single", [])]
    special = {one["content"] for one in said.get("added_tokens", []) if one.get("special")}
    extra = {f"<extra_id_{number}>" for number in range(given.get("extra_ids", T5_EXTRA_IDS))}
    return (
        model.get("type") == "Unigram"
        and model.get("unk_id") == 2
        and not model.get("byte_fallback")
        and (said.get("normalizer") or {"type": "Precompiled"}).get("type") == "Precompiled"
        and said.get("pre_tokenizer") == T5_WORDS
        and ending.get("type") == "TemplateProcessing"
        and single == ["A", "</s>"]
        and extra <= special
    )


def _vocabulary(said: Mapping[str, Any]) -> set[str]:
    vocabulary = said.get("model", {}).get("vocab", [])
    return {one if isinstance(one, str) else one[0] for one in vocabulary}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token
