"""What a folder with the small model scores: its pictures are made, and the judge reads them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from wanbatch.pipeline.core.backends import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.training.toy import captions, world
from wanbatch.pipeline.training.toy.denoiser import embed
from wanbatch.pipeline.training.toy.judge import Judge, distance

Scores = dict[str, float]


class Studio:
    """A folder's model in fp32, set up to make many pictures at once, as `WanPipeline` would make each."""

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        self.pipeline: Any = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
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
    """All scores of the model in `folder`; `sizes` are (height, width), the first is the main one.

    Each is the judge's, with the distance to real renders of the same attributes beside it.
    """
    studio = Studio(folder, device)
    attributes = world.sample(count, torch.Generator().manual_seed(seed + 1))
    unseen = world.sample(count * 24, torch.Generator().manual_seed(seed + 2))
    unseen = unseen[world.held_out(unseen)][:count]

    def read(images: Tensor, attributes: Tensor) -> Scores:
        real = renders(attributes.to(device), *images.shape[2:], seed=seed)
        far = distance(studio.judge.features(images), studio.judge.features(real))
        return studio.judge.score(images, attributes.to(device)) | {"distance": far}

    def through(size: tuple[int, int]) -> Scores:
        real = renders(attributes.to(device), *size, seed=seed + 1)
        again = studio.reconstruct(real)
        error = (again - real).square().mean((1, 2, 3)) / 4
        return read(again, attributes) | {"psnr": -10 * error.log10().mean().item()}

    def score(attributes=attributes, size=sizes[0], steps=steps, guidance=guidance, noisy=False) -> Scores:
        prompts = write_prompts(attributes, seed, noisy=noisy)
        images = studio.generate(prompts, *size, steps=steps, guidance=guidance, seed=seed)
        return read(images, attributes)

    named = {f"{width}x{height}": (height, width) for height, width in sizes}
    return _rounded(
        {
            "pictures": count,
            "seed": seed,
            "renders": {
                name: read(renders(attributes.to(device), *size, seed=seed + 1), attributes)
                for name, size in named.items()
            },
            "reconstructions": {name: through(size) for name, size in named.items()},
            "guidance": {f"{value:g}": score(guidance=value) for value in guidances},
            "steps": {str(value): score(steps=value) for value in step_counts},
            "never_seen": score(unseen),
            "unknown_words": score(noisy=True),
            "sizes": {name: score(size=size) for name, size in named.items()},
        }
    )


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
