"""`Wan`: requests in, pictures and stage timings out.

A request is complete: every default is already filled in. The stages (text, source latents, denoising, decoding)
are separate and timed one by one. Reading source files and writing pictures is the caller's.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.errors import RowError
from wanbatch.pipeline import conditioning
from wanbatch.pipeline.denoise import Denoised, Denoiser, Sample, now
from wanbatch.pipeline.models import ModelInfo, Modules, load
from wanbatch.pipeline.requests import Failed, Request, Result, Seconds
from wanbatch.pipeline.samplers import solve
from wanbatch.pipeline.step_cache import parse
from wanbatch.pipeline.text import TextEncoder
from wanbatch.pipeline.transformer import FrameTransformer
from wanbatch.pipeline.vae import FrameVAE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Wan:
    """The model on one device.

    modules: a loaded model (see `models.load`). slots: rows denoised together; part of what fixes the pixels.
    step_cache: what `step_cache.parse` reads.
    """

    def __init__(self, modules: Modules, device: torch.device, slots: int, step_cache: str = "none"):
        experts = [FrameTransformer(modules.transformer).fuse()]
        if modules.low_noise_transformer is not None:
            experts.append(FrameTransformer(modules.low_noise_transformer).fuse())
        self.device = device
        self.text = TextEncoder(modules.tokenizer, modules.text_encoder)
        self.vae = FrameVAE.from_video(modules.vae).to(device).eval().requires_grad_(False)
        self.stride = modules.vae.config.scale_factor_spatial
        self.channels = modules.transformer.config.in_channels
        self.experts, self.boundary = experts, modules.boundary
        self.dtype = experts[0].dtype
        self.slots = slots
        self.use_step_cache(step_cache)

    @classmethod
    def load(
        cls, info: ModelInfo, device: str = "cpu", dtype: str = "float32", slots: int = 4, step_cache: str = "none"
    ) -> Wan:
        """Load a model that `models.find` has found. dtype: `float32` or `bfloat16`."""
        where = torch.device(device)
        return cls(load(info, where, DTYPES[dtype]), where, slots, step_cache)

    def use_slots(self, slots: int) -> None:
        """Denoise this many rows together from now on. Another number makes slightly different pixels."""
        self.slots = slots
        self.denoiser = Denoiser(self.experts, slots, self.boundary, self.step_cache)

    def use_step_cache(self, text: str) -> None:
        """Skip these steps and blocks from now on. Raises UserError for what is unknown or not in this model."""
        self.step_cache = parse(text, len(self.experts[0].blocks))
        self.use_slots(self.slots)

    @property
    def backends(self) -> dict[str, str]:
        """What runs each stage, recorded with every picture."""
        name = f"eager-{str(self.dtype).removeprefix('torch.')}"
        return dict.fromkeys(("text", "encode", "denoise", "decode"), name)

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        """Make pictures; each is handed over as soon as it is done, in no particular order."""
        embeddings, text_seconds = self.encode_prompts(requests)
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
        return self.vae.encode(conditioning.to_model(pixels).to(self.device, self.dtype))[0].float()

    @torch.inference_mode()
    def decode_latent(self, latent: Tensor) -> np.ndarray:
        """Normalised latent [channels, height, width] -> uint8 picture. Raises RowError if it is not finite."""
        image = self.vae.decode(latent[None].to(self.dtype))[0]
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
                request.sampler, request.steps, request.shift, request.creativity, request.schedule, request.sigmas
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

    def _peak_memory(self) -> int:
        """Bytes: of the device since the model was loaded, or of this process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
