"""First uses as tests have them: pictures of a few tokens, stand-ins of the small random model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_requests import PLAIN, source

from wanbatch.pipeline import generate
from wanbatch.pipeline.first_uses import beside_loading
from wanbatch.pipeline.first_uses.beside_loading import Preparation
from wanbatch.pipeline.first_uses.selection import FirstUse, Size
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import single_frame
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
        replace(
            PLAIN,
            width=size.width,
            height=size.height,
            guidance=3.0 if size.guided else 1.0,
            sources=(source(1),) if size.has_source else (),
        )
        for size in sizes
    ]
    cpu = torch.device("cpu")
    return Preparation(info, cpu, "float32", SLOTS, examples, lambda parts, how: Wan(parts, cpu, SLOTS, how))


def hold_weights(monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool]) -> None:
    """Have a model read only once something is so, or nobody waits for it; without first uses at once."""
    read = generate.load

    def later(*given: Any, stopped: Callable[[], bool] | None = None, **more: Any) -> Any:
        if stopped is None:
            return read(*given, **more)
        while not until() and not stopped():
            time.sleep(0.01)
        return read(*given, stopped=stopped, **more)

    monkeypatch.setattr(generate, "load", later)


@dataclass(frozen=True, slots=True)
class Begun:
    """A first use that was begun, and the name of the thread that makes it."""

    use: FirstUse
    thread: str


def note_first_uses(monkeypatch: pytest.MonkeyPatch) -> list[Begun]:
    """Give the first uses that are made from now on, as they begin."""
    begun: list[Begun] = []
    real = beside_loading.make

    def noted(wan: Any, use: FirstUse) -> None:
        begun.append(Begun(use, threading.current_thread().name))
        real(wan, use)

    monkeypatch.setattr(beside_loading, "make", noted)
    return begun


def run_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels run on the CPU, but for those of the VAE, which take long in Triton's interpreter."""
    pytest.importorskip("wanbatch.pipeline.models.dit_fused", reason="Triton is not installed")
    monkeypatch.setattr(beside_loading, "kernels_usable", lambda device: True)
    monkeypatch.setattr(single_frame, "kernels_usable", lambda device: True)
    monkeypatch.setattr(generate, "runnable_vae", lambda vae, runtime, device: (vae, "eager"))


def tokenizer_of(info: ModelInfo) -> Any:
    """The model's tokenizer."""
    return read_tokenizer(Path(info.folder) / "tokenizer")


def words(tokens: int) -> str:
    """A prompt of the small model's words with this many tokens, its end included."""
    return " ".join(["red"] * (tokens - 1))
