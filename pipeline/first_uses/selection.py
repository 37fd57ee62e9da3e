"""Which texts and pictures are made while weights are read, and in which order. No torch.

A text costs something new with each length that the text encoder pads to, a picture with each size and each length
that its texts are padded to for the transformer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wanbatch.pipeline.core.prompts import ENCODER_LENGTHS, PADDING_KEYS, TEXT_LENGTHS, TEXT_TOKENS
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.loading.registry import ModelInfo

TYPICAL_TOKENS = 64  # of a prompt

MOST_COMMON = tuple(sorted(TEXT_LENGTHS, key=lambda length: abs(math.log(length / TYPICAL_TOKENS))))
"""The lengths that texts are padded to, those of most prompts first."""


@dataclass(frozen=True, slots=True)
class Size:
    """What decides, beside the length of its texts, what a picture needs.

    Attributes:
        width: In pixels.
        height: In pixels.
        guided: Whether the negative prompt plays a part.
        has_source: Whether it starts from a picture.
    """

    width: int
    height: int
    guided: bool
    has_source: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A kind of picture that a run will make.

    Attributes:
        size: Of the picture.
        prompt: Of one such picture; None: not known.
        negative_prompt: Of it.
    """

    size: Size
    prompt: str | None
    negative_prompt: str

    @classmethod
    def of(cls, request: Request) -> Example:
        """What a request is an example of."""
        size = Size(request.width, request.height, request.guidance > 1, bool(request.sources))
        return cls(size, request.prompt, request.negative_prompt)

    @classmethod
    def usual(cls, info: ModelInfo) -> Example:
        """What a model makes where nobody says otherwise."""
        return cls(Size(info.width, info.height, info.guidance > 1, has_source=False), None, info.negative_prompt)


@dataclass(frozen=True, slots=True)
class FirstUse:
    """Something of which a run makes a first one.

    Attributes:
        tokens: Of a text.
        size: Of the picture with that text; None: the text alone is encoded.
    """

    tokens: int
    size: Size | None = None

    @property
    def name(self) -> str:
        """For the log and for measurements."""
        if self.size is None:
            return f"text of {self.tokens} tokens"
        kind = " guided" * self.size.guided + " from a source" * self.size.has_source
        return f"{self.size.width}x{self.size.height}{kind}, {self.tokens} tokens"


def chosen(examples: Sequence[tuple[Example, int | None, int]]) -> list[FirstUse]:
    """What is to be made, in this order: what the examples need, then all lengths of texts, the common ones first.

    Args:
        examples: Kinds of pictures, each with the tokens of its prompt, None if it has none, and of its negative one.

    Returns:
        Each need once: a text is as long as what it is padded to, be it by the text encoder or for the transformer.
    """
    uses: list[FirstUse] = []
    shortest: dict[Size, int] = {}  # a guided picture has the length of its longer text
    for example, prompt, negative in examples:
        guided = example.size.guided
        least = negative if guided else 0
        shortest[example.size] = min(least, shortest.get(example.size, TEXT_TOKENS))
        texts = [prompt, negative if guided else None]
        uses += [FirstUse(_encoded(tokens)) for tokens in texts if tokens is not None]
        if prompt is not None:
            uses.append(FirstUse(_padded(max(prompt, least)), example.size))
    for length in MOST_COMMON:
        uses += [FirstUse(tokens) for tokens in _encoded_within(length)]
        uses += [FirstUse(length, size) for size, least in shortest.items() if least <= length]
    return list(dict.fromkeys(uses))


def _encoded(tokens: int) -> int:
    """What the text encoder pads a text to."""
    return next(length for length in ENCODER_LENGTHS if length >= tokens)


def _padded(tokens: int) -> int:
    """What a text is padded to for the transformer."""
    return next(length for length in TEXT_LENGTHS if length >= tokens)


def _encoded_within(length: int) -> list[int]:
    """What the text encoder pads most texts of a length of `TEXT_LENGTHS` to, the longest first."""
    return [one for one in reversed(ENCODER_LENGTHS) if _padded(one - PADDING_KEYS) == length]
