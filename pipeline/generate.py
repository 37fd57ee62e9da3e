"""`Wan`: requests in, pictures and stage timings out.

A request is complete: every default is already filled in. The stages (text, source latents, denoising, decoding)
are separate and timed one by one. Reading source files and writing pictures is the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.adapters.files import AdapterFile
from wanbatch.pipeline.adapters.merging import merge_files
from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, load_tensors
from wanbatch.pipeline.batching.denoiser import KEPT_CLASSES, Denoiser
from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.backends import VAE, AnyDenoisingModel, ReplacedStages, TextModel
from wanbatch.pipeline.core.device import Moment, Span, synchronized_time
from wanbatch.pipeline.core.outcomes import Entered, Leaving
from wanbatch.pipeline.core.pictures import PendingPicture, encode
from wanbatch.pipeline.core.requests import ComingRow, Failed, Request, Result
from wanbatch.pipeline.core.sample_making import sample_of
from wanbatch.pipeline.core.samples import Denoised, Sample
from wanbatch.pipeline.first_uses.beside_loading import FirstUses, Preparation
from wanbatch.pipeline.loading.compiler import compiler_set_up
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.offload import free_memory
from wanbatch.pipeline.loading.placement import Placement, form_of
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.residency import PIXELS, fits_whole, working_bytes
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import (
    block_maker,
    check_precision,
    layers_name,
    runnable_vae,
    single_frame_text_encoder,
    single_frame_transformer,
    single_frame_vae,
    text_maker,
)
from wanbatch.pipeline.loading.text_recipe import text_recipe
from wanbatch.pipeline.loading.weights import DTYPES, load
from wanbatch.pipeline.sampling.step_cache import parse
from wanbatch.pipeline.text.embedding_cache import TextCache
from wanbatch.pipeline.text.encoder import GPU_TOKENS, TextEncoder

LEAVING_AT_ONCE = 2  # times the slots: rows that have left them and whose pictures a GPU has not made yet


class Wan:
    """The model on one device.

    Args:
        modules: A loaded model (see `weights.load`).
        device: Where it works.
        slots: Rows denoised together; part of what fixes the pixels.
        runtime: How it is run.
        text_cache: Embeddings on disk; None to keep none there.
        adapters: Those that requests may name, each with its tensors for each transformer and its weight.
        pixels: Of the pictures that room is left for, where there is little.

    Raises:
        UserError: Not even one part of the model at a time fits on the device.
    """

    def __init__(
        self,
        modules: Modules,
        device: torch.device,
        slots: int,
        runtime: Runtime = Runtime(),  # noqa: B008  frozen
        text_cache: TextCache | None = None,
        adapters: Mapping[str, tuple[Sequence[AdapterTensors], float]] = MappingProxyType({}),
        pixels: int = PIXELS,
    ):
        self.device, self.runtime, self.slots = device, runtime, slots
        self.experts = [single_frame_transformer(part, runtime, device) for part in modules.transformers]
        self.evaluated: list[AnyDenoisingModel] = list(self.experts)
        self.boundary, self.dtype = modules.boundary, self.experts[0].dtype
        self._adapters = AdapterStore(adapters, device, self.dtype, boundary=self.boundary, exact=runtime.merged_rows)
        text_model, self._text_how = single_frame_text_encoder(modules.text_encoder, device, runtime.text_fp8)
        self.frame_vae = frame_vae = single_frame_vae(modules.vae, device)
        self.vae, self._vae_how = runnable_vae(frame_vae, runtime, device)
        self._replaced_stages: ReplacedStages = lambda width, height, rows: {}
        self.stride = modules.vae.config.scale_factor_spatial
        self.channels = self.experts[0].in_channels
        working = None
        if runtime.offload:
            kept = parse(runtime.step_cache, self.experts[0].layers).residuals_kept
            working = working_bytes(form_of(self.experts), self.stride, slots, pixels, kept)
        self.placement = Placement(
            text_model, self.experts, frame_vae, device, working, lambda: self._forget_kept(), free_memory
        )
        self.text = TextEncoder(
            modules.tokenizer,
            text_model,
            GPU_TOKENS if device.type == "cuda" else 0,
            cache=text_cache,
            device=device,
            before_encoding=self.placement.have_text,
        )
        self.use_step_cache(runtime.step_cache)
        self.placement.have_picture()
        self.first_uses = FirstUses()  # what was built while weights were read

    @classmethod
    def load(
        cls,
        info: ModelInfo,
        device: str = "cpu",
        dtype: str = "float32",
        slots: int = 4,
        runtime: Runtime = Runtime(),  # noqa: B008  frozen
        merged: Sequence[tuple[AdapterFile, float]] = (),
        adapters: Mapping[str, tuple[AdapterFile, float]] = MappingProxyType({}),
        examples: Sequence[Request] | None = None,
    ) -> Wan:
        """Load a model.

        Args:
            info: Of the model, from `registry.find`.
            device: Where it works, such as `cpu` or `cuda`.
            dtype: `float32` or `bfloat16`.
            slots: Rows denoised together.
            runtime: How it is run.
            merged: Adapters that are merged into the weights, in this order, with their weights.
            adapters: Those that requests may name, with their weights.
            examples: Requests like those that will come first, such as the model makes by itself if there are none:
                what they need of a GPU is built while weights are read, see `first_uses`. None: nothing is.

        Raises:
            UserError: If the model cannot be loaded or not run in this way.
        """
        where = torch.device(device)
        check_precision(runtime, where, info, dtype)
        recipe = partial(text_recipe, info, where, dtype, GPU_TOKENS, runtime.text_fp8)
        cache = TextCache.kept_in(runtime.text_cache, recipe)
        pixels, eight_bits = info.width * info.height, (runtime.fp8 or runtime.int8) and not merged
        if runtime.offload and device == "cuda":
            folder, free = Path(info.folder), free_memory(where)
            whole = fits_whole(folder, dtype, eight_bits, slots, pixels, free, runtime.text_fp8)
            runtime = replace(runtime, offload=not whole)
        ready = None if merged else block_maker(runtime, where)  # adapters are merged into plain weights
        to = torch.device("cpu") if runtime.offload else where
        reading = partial(load, info, to, DTYPES[dtype], ready, text_maker(runtime, where))
        first = Preparation(info, where, dtype, slots, examples, lambda parts, how: cls(parts, where, slots, how))
        with compiler_set_up(runtime, where):
            modules, uses = first.read(reading, runtime, eight_bits)
        merge_files(modules.transformers, merged)
        of_rows = {name: (load_tensors(file), weight) for name, (file, weight) in adapters.items()}
        wan = cls(modules, where, slots, runtime, cache, of_rows, pixels)
        wan.first_uses = uses
        return wan

    def use_slots(self, slots: int) -> None:
        """Denoise this many rows together from now on. Another number makes slightly different pixels."""
        self.slots = slots
        kept = 0 if self.offloaded else KEPT_CLASSES
        have, turns = self.placement.have_expert, self.placement.residency.experts_leave
        self.denoiser = Denoiser(self.evaluated, slots, self.boundary, self.step_cache, kept, have, turns)

    def use_step_cache(self, text: str) -> None:
        """Skip these steps and blocks from now on.

        Args:
            text: See `step_cache.parse`.

        Raises:
            UserError: For what is unknown or not in this model.
        """
        self.step_cache = parse(text, self.experts[0].layers)
        self.use_slots(self.slots)

    @property
    def offloaded(self) -> bool:
        """Whether parts of the model take turns on the device."""
        return self.placement.residency.moves

    @property
    def runs_by_kernels(self) -> bool:
        """Whether transformer and text encoder are run by our own kernels."""
        return self.experts[0].fused and self._text_how == "kernels"

    @property
    def backends(self) -> dict[str, str]:
        """What runs each stage, recorded with every picture."""
        dtype = str(self.dtype).removeprefix("torch.")
        blocks = "kernels" if self.experts[0].fused else "compiled" if self.runtime.compile else "eager"
        layers = dtype + layers_name(self.runtime, self.device)
        names = {
            "text": f"{self._text_how}-{dtype}" + ("-fp8-weights" if self.runtime.text_fp8 else ""),
            "encode": f"{self._vae_how}-{dtype}",
            "denoise": f"{blocks}-{layers}",
            "decode": f"{self._vae_how}-{dtype}",
        }
        return self.placement.marked(names)

    def replace_parts(
        self, text: TextModel, transformers: Sequence[AnyDenoisingModel], vae: VAE, stages: ReplacedStages
    ) -> None:
        """Run other parts in place of the model's own from now on. The model's weights must not move any more."""
        self.text.model, self.vae, self._replaced_stages = text, vae, stages
        self.evaluated = list(transformers)
        self.use_slots(self.slots)

    def backends_of(self, request: Request) -> dict[str, str]:
        """What runs each stage of a picture. Rows with adapters of their own always have the model's transformer."""
        rows = self.slots * (2 if request.guidance > 1 else 1)
        own = {"denoise": self.backends["denoise"]} if request.adapters else {}
        return {**self.backends, **self._replaced_stages(request.width, request.height, rows), **own}

    def warm_up(self, examples: Sequence[Request]) -> float:
        """Make each example in two steps, so that what its size class needs is compiled. Returns seconds."""
        begin = synchronized_time(self.device)
        short: dict[str, Any] = {"steps": 2, "creativity": 1.0, "schedule": "linear", "sigmas": None}
        short["creativity_map"] = None  # it needs no code of its own
        for example in examples:
            for _ in self.generate([replace(example, **short, shift=example.shift or 1.0)]):
                pass
        return synchronized_time(self.device) - begin

    @property
    def streams(self) -> bool:
        """Whether `generate` takes further requests while it is at work; not if parts of the model take turns."""
        return not self.offloaded

    def expect_adapters(self, holder: Hashable, rows: Iterable[ComingRow]) -> None:
        """See `AdapterStore.expect`; not if parts of the model take turns, which leaves no memory for coming rows."""
        if not self.offloaded:
            self._adapters.expect(holder, rows)

    def release_adapters(self, holder: Hashable) -> None:
        """Keep none there for these rows any more."""
        self._adapters.release(holder)

    def spare_memory(self) -> int:
        """Let go of adapters that are there for coming rows; returns their bytes. See `AdapterStore.spare_memory`."""
        return self._adapters.spare_memory()

    def generate(
        self, requests: Sequence[Request], more: Callable[[], Sequence[Request]] | None = None
    ) -> Iterator[Result | Failed]:
        """Make pictures; each is handed over as soon as it is done, in no particular order.

        Args:
            requests: For the pictures.
            more: Asked for further requests whenever rows leave and none of these can take their slots; empty: there
                are none now. For models that `streams`. None: there are none.
        """
        entered: dict[Sample, Entered] = {}

        def further() -> Iterator[Sample] | None:
            coming = () if more is None else more()
            return self._enter(coming, entered) if coming else None

        made: Iterable[Sequence[Denoised]] = self.denoiser.evaluations(list(self._enter(requests, entered)), further)
        if self.placement.residency.vae_leaves:
            made = list(made)  # or a transformer would leave for each picture
            self.placement.have_vae()
        leaving: deque[Leaving] = deque()
        for finished in made:
            for denoised in finished:
                picture = PendingPicture(self.vae, denoised.latent, self.dtype)
                leaving.append(Leaving(entered.pop(denoised.sample), denoised, picture))
            while leaving and (leaving[0].picture.here or len(leaving) > self.slots * LEAVING_AT_ONCE):
                yield self._outcome(leaving.popleft())
        for one in leaving:
            yield self._outcome(one)

    def _enter(self, requests: Sequence[Request], entered: dict[Sample, Entered]) -> Iterator[Sample]:
        """Encode what requests need and make them rows, which are noted with their request and its time."""
        embeddings, of_text = self.encode_prompts(requests)
        self.placement.have_picture()
        if self.offloaded and any(request.sources for request in requests):
            self.placement.have_vae()
        latents, of_sources = self.encode_sources(requests)
        text = of_text.divided(len(requests))
        source = of_sources.divided(sum(1 for request in requests if request.sources))
        for request in requests:
            sample = self.sample(request, embeddings, latents)
            entered[sample] = Entered(request, (text,), (source,) if request.sources else ())
            yield sample

    def _outcome(self, row: Leaving) -> Result | Failed:
        return row.outcome(self.stride, self.backends_of, self.placement.newly_moved)

    def encode_prompts(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], Span]:
        """Embeddings of all prompts that play a part, and the time that they take."""
        begin = Moment(self.device)
        prompts = [request.prompt for request in requests]
        prompts += [request.negative_prompt for request in requests if request.guidance > 1]
        embeddings = self.text.encode(prompts)
        return embeddings, Span(begin, Moment(self.device))

    def encode_sources(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], Span]:
        """Latents [channels, height, width] of all distinct sources, and the time that they take."""
        begin = Moment(self.device)
        latents: dict[str, Tensor] = {}
        for request in requests:
            for source in request.sources:
                if source.key not in latents:
                    latents[source.key] = self.encode_image(source.pixels)
        return latents, Span(begin, Moment(self.device))

    def encode_image(self, pixels: np.ndarray) -> Tensor:
        """uint8 [rows, columns, 3] -> normalised latent, float32 [channels, rows / stride, columns / stride]."""
        return encode(self.vae, pixels, self.device, self.dtype)

    def decode_latent(self, latent: Tensor) -> np.ndarray:
        """The picture of a latent.

        Args:
            latent: [channels, height, width], normalised.

        Returns:
            uint8 [height * stride, width * stride, 3].

        Raises:
            RowError: If the picture contains NaN or infinity.
        """
        return PendingPicture(self.vae, latent, self.dtype).pixels()

    @torch.inference_mode()
    def sample(self, request: Request, embeddings: dict[str, Tensor], latents: dict[str, Tensor]) -> Sample:
        """What the denoiser needs of a request: its start, its steps and its text."""
        mixed = None
        if request.sources:
            chosen = [latents[source.key] for source in request.sources]
            mixed = conditioning.blend(chosen, [source.weight for source in request.sources])
        prompt = embeddings[request.prompt]
        texts = prompt, embeddings.get(request.negative_prompt, prompt)
        adapters = self._adapters.applied(request.adapters, request.id)
        return sample_of(request, texts, mixed, self.channels, self.stride, self.device, adapters)

    def _forget_kept(self) -> None:
        """Give up what the denoiser keeps between calls: memory, and launches that know where the weights are."""
        self.denoiser.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
