"""What a GPU needs of each kind of text and picture, built while the model's weights are read by other threads.

The first text of each length and the first picture of each size and length cost up to a second on a GPU: its
libraries build plans of attention and of convolutions, which they keep by thread, and Triton loads its kernels. The
thread that has the model later has nothing to do while weights are read. So it makes such texts and pictures with
stand-ins (`loading/stand_ins.py`), whose products and attentions are those of the model, and goes on with the model
itself as soon as that is there, whatever is left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import TEXT_TOKENS, clean
from wanbatch.pipeline.core.requests import Request, SourceImage
from wanbatch.pipeline.first_uses.selection import Example, FirstUse, chosen
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.offload import free_memory
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.residency import fits_whole
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.stand_ins import STAND_IN_BYTES, stand_ins, text_encoder_is_written_here, text_of
from wanbatch.pipeline.loading.tokenizer import read_tokenizer
from wanbatch.pipeline.loading.weights import DTYPES
from wanbatch.pipeline.models.own_kernels import kernels_usable
from wanbatch.pipeline.text.encoder import TextEncoder

_log = logging.getLogger(__name__)


class StandIn(Protocol):
    """A pipeline of stand-ins; `Wan` is one."""

    text: TextEncoder

    @property
    def runs_by_kernels(self) -> bool:
        """Whether transformer and text encoder are run by our own kernels."""

    def generate(self, requests: Sequence[Request]) -> Iterable[Any]:
        """Make pictures."""


@dataclass(slots=True)
class FirstUses:
    """What was built while weights were read.

    Attributes:
        seconds: In all, beside the reading; those of the last one may go on after its end.
        made: The seconds of each, by its name, and of what came before them.
        left_out: How many were not begun, because the weights were there.
        failure: What ended it early; empty: nothing.
    """

    seconds: float = 0.0
    made: dict[str, float] = field(default_factory=dict)
    left_out: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How the first uses of a model are made.

    Attributes:
        info: Of the model.
        device: Where it works.
        dtype: Of it, as torch calls it.
        slots: Rows that are denoised together.
        examples: Requests like those that will come first, such as the model makes by itself if there are none; None:
            nothing is made.
        pipeline_of: Makes a pipeline of the parts of a model, which is run in some way.
    """

    info: ModelInfo
    device: torch.device
    dtype: str
    slots: int
    examples: Sequence[Request] | None
    pipeline_of: Callable[[Modules, Runtime], StandIn]

    @property
    def kinds(self) -> list[Example]:
        """The kinds of pictures that will come first."""
        return [Example.of(request) for request in self.examples or ()] or [Example.usual(self.info)]

    def read(self, load: Callable[..., Modules], runtime: Runtime, eight_bits: bool) -> tuple[Modules, FirstUses]:
        """Load the model; make its first uses meanwhile, if they are wanted and can be made.

        Args:
            load: Loads it; takes `tokenizer` and `stopped` as `weights.load` does.
            runtime: How the model is run.
            eight_bits: Whether its transformers are in FP8 or INT8 as soon as they are read.

        Raises whatever `load` raises.
        """
        if self.examples is None or not self.can_be_made(runtime, eight_bits):
            return load(), FirstUses()
        return self.beside(load, runtime)

    def can_be_made(self, runtime: Runtime, eight_bits: bool) -> bool:
        """Whether there is something to build, and room for stand-ins beside all of the model.

        Args:
            runtime: How the model is run.
            eight_bits: Whether its transformers are in FP8 or INT8 as soon as they are read.
        """
        if runtime.offload or not kernels_usable(self.device):
            return False
        pixels = max(kind.size.width * kind.size.height for kind in self.kinds)
        try:
            free, folder = free_memory(self.device) - STAND_IN_BYTES, Path(self.info.folder)
            fits = fits_whole(folder, self.dtype, eight_bits, self.slots, pixels, free, runtime.text_fp8)
            return fits and text_encoder_is_written_here(self.info)
        except (UserError, OSError, ValueError, KeyError):
            return False  # whoever loads the model says what is wrong

    def beside(self, load: Callable[..., Modules], runtime: Runtime) -> tuple[Modules, FirstUses]:
        """Load the model in another thread, and make its first uses in this one until it is there.

        Args:
            load: See `read`.
            runtime: How the model is run.

        Raises whatever `load` raises. What goes wrong in first uses is logged.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(2, "load") as pool:
            tokenizer = pool.submit(read_tokenizer, Path(self.info.folder) / "tokenizer")
            loading = pool.submit(load, tokenizer=tokenizer, stopped=stop.is_set)
            try:
                begin = time.perf_counter()
                uses = self.until(loading.done, tokenizer.result, runtime)
                uses.seconds = time.perf_counter() - begin
                modules = loading.result()
            except BaseException:  # this thread is interrupted, most often
                stop.set()
                raise
        if uses.failure:
            _log.warning("what the first pictures need is not ready before they come: %s", uses.failure)
        return modules, uses

    def until(self, loaded: Callable[[], bool], tokenizer: Callable[[], Any], runtime: Runtime) -> FirstUses:
        """Make first uses, one after the other, until the model is loaded.

        Args:
            loaded: Whether it is.
            tokenizer: Waits for the tokenizer of the model.
            runtime: How the model is run.
        """
        found = FirstUses()
        try:
            self._make(found, loaded, tokenizer, runtime)
        except Exception as error:  # noqa: BLE001  no run is given up for what it would build by itself
            found.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return found

    def _make(
        self, found: FirstUses, loaded: Callable[[], bool], tokenizer: Callable[[], Any], runtime: Runtime
    ) -> None:
        begin = time.perf_counter()
        plain = replace(runtime, compile=False, text_cache=None, step_cache="none")
        parts = stand_ins(self.info, self.device, DTYPES[self.dtype], plain)
        wan = self.pipeline_of(parts, plain)
        found.made["stand-ins"] = time.perf_counter() - begin
        if not wan.runs_by_kernels:
            return
        begin = time.perf_counter()
        uses = chosen(list(self._counted(tokenizer())))
        found.made["tokenizer"] = time.perf_counter() - begin
        for number, use in enumerate(uses):
            if loaded():
                found.left_out = len(uses) - number
                return
            begin = time.perf_counter()
            make(wan, use)
            found.made[use.name] = time.perf_counter() - begin

    def _counted(self, tokenizer: Any) -> Iterator[tuple[Example, int | None, int]]:
        for example in self.kinds:
            prompt = None if example.prompt is None else _tokens(tokenizer, example.prompt)
            yield example, prompt, _tokens(tokenizer, example.negative_prompt)


def _tokens(tokenizer: Any, prompt: str) -> int:
    return len(tokenizer([clean(prompt)], truncation=True, max_length=TEXT_TOKENS).input_ids[0])


def make(wan: StandIn, use: FirstUse) -> None:
    """Make one first use: a text, or a picture in one step of one evaluation.

    Args:
        wan: Of stand-ins.
        use: Which.
    """
    text, size = text_of(use.tokens), use.size
    if size is None:
        wan.text.encode([text])
        return
    grey = np.zeros((size.height, size.width, 3), dtype=np.uint8)
    request = Request(
        id=use.name,
        prompt=text,
        negative_prompt=text,
        sources=(SourceImage("grey", grey),) if size.has_source else (),
        creativity=1.0,
        seed=0,
        width=size.width,
        height=size.height,
        steps=1,
        guidance=2.0 if size.guided else 1.0,
        shift=1.0,
        sampler="euler",
    )
    for _ in wan.generate([request]):
        pass
