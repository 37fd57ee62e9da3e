"""First uses as tests have them: pictures of a few tokens, stand-ins of the small random model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from picture_requests import PLAIN

from wanbatch.pipeline.first_uses.beside_loading import Preparation
from wanbatch.pipeline.first_uses.selection import Size
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.tokenizer import read_tokenizer

SMALL = Size(64, 32, guided=False, has_source=False)
GUIDED = Size(64, 32, guided=True, has_source=False)
SLOTS = 2


def load(info: ModelInfo, **changes: Any) -> Wan:
    """The model on the CPU, for pictures of 32 x 32 without guidance."""
    wanted = {"slots": SLOTS, "examples": [replace(PLAIN, width=32, height=32, guidance=1.0)]}
    return Wan.load(info, "cpu", "float32", **wanted | changes)


def prepared(info: ModelInfo, *sizes: Size) -> Preparation:
    """How first uses of pictures of some sizes are made."""
    examples = [
        replace(PLAIN, width=size.width, height=size.height, guidance=3.0 if size.guided else 1.0) for size in sizes
    ]
    cpu = torch.device("cpu")
    return Preparation(info, cpu, "float32", SLOTS, examples, lambda parts, how: Wan(parts, cpu, SLOTS, how))


def tokenizer_of(info: ModelInfo) -> Any:
    """The model's tokenizer."""
    return read_tokenizer(Path(info.folder) / "tokenizer")


def words(tokens: int) -> str:
    """A prompt of the small model's words with this many tokens, its end included."""
    return " ".join(["red"] * (tokens - 1))
