"""Prompts as text: how they are cleaned, and how many of their tokens the model reads. Needs no torch."""

from __future__ import annotations

import html

import regex

TEXT_TOKENS = 512
"""Tokens of a prompt that Wan reads, with the one that ends it: it pads shorter prompts to that, and cuts others."""

ENCODER_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, TEXT_TOKENS)
"""What a prompt's tokens are padded to while they are encoded. Close together where prompts are common: a prompt of
40 tokens costs a quarter less at 48 than at 64."""

PADDING_KEYS = 2
"""Keys that stand for Wan's own padding of a text, see `models/text_context.py`."""

TEXT_LENGTHS = (30, 62, 126, 254, TEXT_TOKENS)
"""The lengths that texts are padded to for the transformer. With the keys that stand for Wan's own padding, the
number of keys is a multiple of 32."""


def clean(prompt: str) -> str:
    """The text that is tokenized, as diffusers' `prompt_clean` makes it: mended Unicode and HTML, single spaces."""
    import ftfy  # takes a tenth of a second

    text = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return regex.sub(r"\s+", " ", text).strip()
