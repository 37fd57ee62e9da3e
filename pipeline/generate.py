"""`Wan`: requests in, pictures and stage timings out.

A request is complete: every default is already filled in. The stages (text, source latents, denoising, decoding)
are separate and timed one by one. Reading source files and writing pictures is the caller's.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from wanbatch.errors import RowError
from wanbatch.pipeline.batching.denoiser import KEPT_CLASSES, Denoised, Denoiser, Sample, now
from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.requests import Failed, Request, Result, Seconds
from wanbatch.pipeline.loading.offload import WORKING, Residency, free_memory
from wanbatch.pipeline.loading.registry import ModelInfo, Modules, load
from wanbatch.pipeline.loading.runtime import Runtime, kernels_usable, set_up_compiler
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.fp8 import to_float8
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.sampling.solvers import solve
from wanbatch.pipeline.sampling.step_cache import parse
from wanbatch.pipeline.text.embedding_cache import TextCache
from wanbatch.pipeline.text.encoder import GPU_TOKENS, TextEncoder

MARGIN = max(WORKING.values())  # bytes besides the weights
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def expert(model: Any, runtime: Runtime, device: torch.device) -> FrameTransformer:
    """A `WanTransformer3DModel` as it is run on a device, where it need not be yet."""
    frame = FrameTransformer(model).fuse()
    if runtime.fp8:
        to_float8(frame)
    if kernels_usable(device):
        frame.use_kernels()
    return frame.compile_blocks() if runtime.compile and not frame.fused else frame


class Wan:
    """The model on one device.

    modules: a loaded model (see `models.load`). slots: rows denoised together; part of what fixes the pixels.
    runtime: how it is run. text_cache: embeddings on disk.
    """

    def __init__(
        self,
        modules: Modules,
        device: torch.device,
        slots: int,
        runtime: Runtime = Runtime(),  # noqa: B008  frozen
        text_cache: TextCache | None = None,
    ):
        parts = (modules.transformer, modules.low_noise_transformer)
        experts = [expert(part, runtime, device) for part in parts if part is not None]
        self.device, self.runtime = device, runtime
        tokens = GPU_TOKENS if device.type == "cuda" else 0
        text_encoder, self._text_how = _text_encoder(modules.text_encoder, device)
        self.text = TextEncoder(modules.tokenizer, text_encoder, tokens, cache=text_cache, device=device)
        self.vae = FrameVAE.from_video(modules.vae).eval().fold()
        if device.type == "cuda":
            self.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._encode, self._decode = self.vae.encode, self.vae.decode
        if runtime.compile:
            self._encode = torch.compile(self._encode, fullgraph=True, dynamic=False)
            self._decode = torch.compile(self._decode, fullgraph=True, dynamic=False)
        self.stride = modules.vae.config.scale_factor_spatial
        self.channels = modules.transformer.config.in_channels
        self.experts, self.boundary = experts, modules.boundary
        self.dtype = experts[0].dtype
        self.slots = slots
        self.use_step_cache(runtime.step_cache)
        self.residency = self._residency(text_encoder) if runtime.offload else None
        self.offloaded = self.residency is not None and not self.residency.together
        self.text.before_encoding = lambda: self._need("text")
        self._need("picture")

    @classmethod
    def load(
        cls,
        info: ModelInfo,
        device: str = "cpu",
        dtype: str = "float32",
        slots: int = 4,
        runtime: Runtime = Runtime(),  # noqa: B008  frozen
    ) -> Wan:
        """Load a model that `models.find` has found. dtype: `float32` or `bfloat16`."""
        where = torch.device(device)
        if runtime.compile:
            set_up_compiler(runtime.compile_cache)
        cache = None
        if runtime.text_cache is not None:
            cache = TextCache(Path(runtime.text_cache).expanduser(), _text_recipe(info, where, dtype))
        if runtime.offload and device == "cuda" and _weight_bytes(info) + MARGIN <= free_memory(where):
            runtime = replace(runtime, offload=False)  # all of it fits for certain
        modules = load(info, torch.device("cpu") if runtime.offload else where, DTYPES[dtype])
        return cls(modules, where, slots, runtime, cache)

    def use_slots(self, slots: int) -> None:
        """Denoise this many rows together from now on. Another number makes slightly different pixels."""
        self.slots = slots
        kept = 0 if self.runtime.offload else KEPT_CLASSES
        self.denoiser = Denoiser(self.experts, slots, self.boundary, self.step_cache, kept)

    def use_step_cache(self, text: str) -> None:
        """Skip these steps and blocks from now on. Raises UserError for what is unknown or not in this model."""
        self.step_cache = parse(text, len(self.experts[0].blocks))
        self.use_slots(self.slots)

    @property
    def backends(self) -> dict[str, str]:
        """What runs each stage, recorded with every picture."""
        dtype = str(self.dtype).removeprefix("torch.")
        how = "compiled" if self.runtime.compile else "eager"
        blocks = "kernels" if self.experts[0].fused else how
        layers = f"{dtype}-fp8" if self.runtime.fp8 else dtype
        if self.runtime.fp8 and self.device.type != "cuda":
            layers += "-emulated"
        return {
            "text": f"{self._text_how}-{dtype}" + ("-offloaded" if self.offloaded else ""),
            "encode": f"{how}-{dtype}",
            "denoise": f"{blocks}-{layers}",
            "decode": f"{how}-{dtype}",
        }

    def warm_up(self, examples: Sequence[Request]) -> float:
        """Make each example in two steps, so that what its size class needs is compiled. Returns seconds."""
        begin = now(self.device)
        short: dict[str, Any] = {"steps": 2, "creativity": 1.0, "schedule": "linear", "sigmas": None}
        for example in examples:
            for _ in self.generate([replace(example, **short, shift=example.shift or 1.0)]):
                pass
        return now(self.device) - begin

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        """Make pictures; each is handed over as soon as it is done, in no particular order."""
        embeddings, text_seconds = self.encode_prompts(requests)
        self._need("picture")
        latents, encode_seconds = self.encode_sources(requests)
        waiting = {request.id: request for request in requests}
        samples = [self.sample(request, embeddings, latents) for request in requests]
        for denoised in self.denoiser.run(samples):
            request = waiting.pop(denoised.sample.id)
            yield self._finish(request, denoised, text_seconds, encode_seconds if request.sources else 0.0)

    def encode_prompts(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], float]:
        """Embeddings of all prompts that play a part, and the seconds that they cost each request."""
        begin = now(self.device)
        prompts = [request.prompt for request in requests]
        prompts += [request.negative_prompt for request in requests if request.guidance > 1]
        embeddings = self.text.encode(prompts)
        return embeddings, (now(self.device) - begin) / max(1, len(requests))

    def encode_sources(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], float]:
        """Latents [channels, height, width] of all distinct sources, and the seconds for each request with one."""
        begin = now(self.device)
        latents: dict[str, Tensor] = {}
        for request in requests:
            for source in request.sources:
                if source.key not in latents:
                    latents[source.key] = self.encode_image(source.pixels)
        having = sum(1 for request in requests if request.sources)
        return latents, (now(self.device) - begin) / max(1, having)

    @torch.inference_mode()
    def encode_image(self, pixels: np.ndarray) -> Tensor:
        """uint8 [rows, columns, 3] -> normalised latent, float32 [channels, rows / stride, columns / stride]."""
        image = self._laid_out(conditioning.to_model(pixels, self.device).to(self.dtype))
        return self._encode(image)[0].float()

    @torch.inference_mode()
    def decode_latent(self, latent: Tensor) -> np.ndarray:
        """Normalised latent [channels, height, width] -> uint8 picture. Raises RowError if it is not finite."""
        image = self._decode(self._laid_out(latent[None].to(self.dtype)))[0]
        if not bool(torch.isfinite(image).all()):
            raise RowError("decode", "nan", "the picture has values that are not numbers (NaN or infinity)")
        return conditioning.to_pixels(image)

    @torch.inference_mode()
    def sample(self, request: Request, embeddings: dict[str, Tensor], latents: dict[str, Tensor]) -> Sample:
        """What the denoiser needs of a request: its start, its steps and its text."""
        height, width = request.height // self.stride, request.width // self.stride
        noise = conditioning.initial_noise(request.seed, self.channels, height, width).to(self.device)
        mixed = None
        if request.sources:
            chosen = [latents[source.key] for source in request.sources]
            mixed = conditioning.blend(chosen, [source.weight for source in request.sources])
        prompt = embeddings[request.prompt]
        return Sample(
            id=request.id,
            start=conditioning.start(noise, mixed, request.creativity),
            solution=solve(
                request.sampler,
                request.steps,
                request.shift,
                request.creativity,
                request.schedule,
                request.sigmas,
                request.creativity_steps,
            ),
            guidance=request.guidance,
            prompt=prompt,
            negative=embeddings.get(request.negative_prompt, prompt),
            seed=request.seed,
        )

    def _finish(self, request: Request, denoised: Denoised, text: float, encode: float) -> Result | Failed:
        begin = now(self.device)
        try:
            pixels = self.decode_latent(denoised.latent)
        except RowError as error:
            return Failed(request, error)
        seconds = Seconds(text, encode, denoised.seconds, now(self.device) - begin)
        return Result(request, pixels, seconds, denoised.work, self._peak_memory())

    def _residency(self, text_encoder: Any) -> Residency:
        parts = {"text": text_encoder, "picture": torch.nn.ModuleList([*self.experts, self.vae])}
        where = self.device
        return Residency(parts, where, lambda: free_memory(where) if where.type == "cuda" else sys.maxsize)

    def _need(self, part: str) -> None:
        """Have a part of the model on the device."""
        if self.residency is not None:
            self.residency.need(part)

    def _laid_out(self, batch: Tensor) -> Tensor:
        """As the VAE's convolutions want it on this device."""
        return batch.contiguous(memory_format=torch.channels_last) if self.device.type == "cuda" else batch

    def _peak_memory(self) -> int:
        """Bytes: of the device since the model was loaded, or of this process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _text_encoder(model: Any, device: torch.device) -> tuple[Any, str]:
    """A `UMT5EncoderModel` as it is run on a device, and the name of that."""
    if kernels_usable(device):
        from wanbatch.pipeline.models.umt5_fused import FusedUMT5

        if FusedUMT5.fits(model):
            return FusedUMT5(model), "kernels"
    return model, "eager"


def _weight_bytes(info: ModelInfo) -> int:
    """Of a model's weight files."""
    return sum(path.stat().st_size for path in Path(info.folder).rglob("*.safetensors"))


def _text_recipe(info: ModelInfo, device: torch.device, dtype: str) -> str:
    """Everything that decides the bits of a text embedding besides the prompt."""
    if device.type == "cuda":
        how = "kernels" if kernels_usable(device) else "eager"
        kind = f"{torch.cuda.get_device_name(device)} {torch.version.cuda} {GPU_TOKENS} {how}"
    else:
        kind = f"cpu {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    return f"{info.digest} {dtype} {kind} torch {torch.__version__} transformers {transformers.__version__}"
