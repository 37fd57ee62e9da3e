"""What a folder with the small model scores: its pictures are made, and the judge reads them."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.evaluation.judge import Judge, distance
from wanbatch.pipeline.evaluation.metrics import psnr_of_error
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.training.toy import captions, world
from wanbatch.pipeline.training.toy.denoiser import embed

Scores = dict[str, float]


class Studio:
    """A folder's model in fp32, set up to make many pictures at once, as `WanPipeline` would make each."""

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        self.pipeline: Any = WanPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self.encoder = self.pipeline.text_encoder.eval().to(device)
        self.dit = FrameTransformer(self.pipeline.transformer.eval()).to(device)
        self.vae = FrameVAE.from_video(self.pipeline.vae.eval()).to(device)
        self.judge = Judge.load(folder / "judge", device)

    @torch.no_grad()
    def generate(
        self, prompts: list[str], height: int, width: int, *, steps: int, guidance: float, seed: int
    ) -> Tensor:
        """Images fp32 `[B, 3, height, width]` in [-1, 1]; the noise is drawn on the CPU from one seed."""
        generator = torch.Generator().manual_seed(seed)
        stride = self.pipeline.vae_scale_factor_spatial
        shape = (len(prompts), len(self.vae.mean), height // stride, width // stride)
        latents = torch.randn(shape, generator=generator).to(self.device)
        conditional, unconditional = self._context(prompts), self._context([""] * len(prompts))
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        for time in scheduler.timesteps:
            times = time.float().expand(len(prompts))
            velocity = self.dit(latents, times, conditional)
            if guidance != 1:
                free = self.dit(latents, times, unconditional)
                velocity = free + guidance * (velocity - free)
            latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
        return torch.cat([self.vae.decode(part) for part in latents.split(256)])

    def _context(self, prompts: list[str]):
        batch = self.pipeline.tokenizer(prompts, padding=True, return_tensors="pt").to(self.device)
        lengths = batch.attention_mask.sum(1)
        return self.dit.context(embed(self.encoder, batch.input_ids, lengths), lengths, TEXT_TOKENS)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images through the autoencoder and back."""
        return torch.cat([self.vae.decode(self.vae.encode(part)) for part in images.split(256)])


def measure(
    folder: Path,
    *,
    sizes: list[tuple[int, int]],
    count: int,
    steps: int,
    guidance: float,
    guidances: list[float],
    step_counts: list[int],
    seed: int,
    device: torch.device,
) -> dict:
    """All scores of a model: the judge's, each with the distance to real renders of the same attributes beside it.

    Args:
        folder: Of the model.
        sizes: (height, width) in pixels, the first the main one.
        count: Pictures for each score.
        steps: Of the schedule where no other number is scored.
        guidance: Guidance scale where no other is scored.
        guidances: Guidance scales to score.
        step_counts: Numbers of steps to score.
        seed: Of everything that is random.
        device: Where the model works.
    """
    scorer = _Scorer(folder, device, count, seed, sizes[0], steps, guidance)
    named = {f"{width}x{height}": (height, width) for height, width in sizes}
    return _rounded(
        {
            "pictures": count,
            "seed": seed,
            "renders": {name: scorer.of_renders(size) for name, size in named.items()},
            "reconstructions": {name: scorer.of_reconstructions(size) for name, size in named.items()},
            "guidance": {f"{value:g}": scorer.of_pictures(guidance=value) for value in guidances},
            "steps": {str(value): scorer.of_pictures(steps=value) for value in step_counts},
            "never_seen": scorer.of_pictures(held_out=True),
            "unknown_words": scorer.of_pictures(noisy=True),
            "sizes": {name: scorer.of_pictures(size=size) for name, size in named.items()},
        }
    )


class _Scorer:
    """Makes pictures of the same attributes in several ways and scores them; the arguments are those of `measure`."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        count: int,
        seed: int,
        size: tuple[int, int],
        steps: int,
        guidance: float,
    ):
        self._studio, self._device, self._seed = Studio(folder, device), device, seed
        self._size, self._steps, self._guidance = size, steps, guidance
        self._attributes = world.sample(count, torch.Generator().manual_seed(seed + 1))
        unseen = world.sample(count * 24, torch.Generator().manual_seed(seed + 2))
        self._unseen = unseen[world.held_out(unseen)][:count]

    def of_renders(self, size: tuple[int, int]) -> Scores:
        """Of other renders of the attributes: what a perfect model would score."""
        return self._read(self._renders(size), self._attributes)

    def of_reconstructions(self, size: tuple[int, int]) -> Scores:
        """Of renders that went through the autoencoder."""
        real = self._renders(size)
        again = self._studio.reconstruct(real)
        errors = (again - real).square().mean((1, 2, 3)).tolist()
        psnr = statistics.fmean(psnr_of_error(error, 2) for error in errors)
        return self._read(again, self._attributes) | {"psnr": psnr}

    def of_pictures(
        self,
        *,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        held_out: bool = False,
        noisy: bool = False,
    ) -> Scores:
        """Of what the model makes. held_out: of attributes it was never trained on. noisy: see `write_prompts`."""
        attributes = self._unseen if held_out else self._attributes
        images = self._studio.generate(
            write_prompts(attributes, self._seed, noisy=noisy),
            *(size or self._size),
            steps=self._steps if steps is None else steps,
            guidance=self._guidance if guidance is None else guidance,
            seed=self._seed,
        )
        return self._read(images, attributes)

    def _renders(self, size: tuple[int, int]) -> Tensor:
        return renders(self._attributes.to(self._device), *size, seed=self._seed + 1)

    def _read(self, images: Tensor, attributes: Tensor) -> Scores:
        attributes, judge = attributes.to(self._device), self._studio.judge
        real = renders(attributes, *images.shape[2:], seed=self._seed)
        far = distance(judge.features(images), judge.features(real))
        return judge.score(images, attributes) | {"distance": far}


def renders(attributes: Tensor, height: int, width: int, *, seed: int) -> Tensor:
    """Real pictures of these attributes, fp32 `[B, 3, height, width]` in [-1, 1]."""
    generator = torch.Generator(attributes.device).manual_seed(seed)
    return torch.cat([world.render(a, height, width, generator=generator) for a in attributes.split(256)])


def write_prompts(attributes: Tensor, seed: int, *, noisy: bool = False) -> list[str]:
    """A caption that names everything for each row. noisy: with two words strewn in that the model cannot know."""
    rng = random.Random(seed)
    prompts = []
    for names in world.describe(attributes):
        words = captions.write(names, rng, full=True).split()
        for word in ("fluffy", "zyx") if noisy else ():
            words.insert(rng.randrange(len(words) + 1), word)
        prompts.append(" ".join(words))
    return prompts


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
