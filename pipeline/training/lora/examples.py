"""Training pictures as the training takes them: latents and text states, made once and kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.training.lora.buckets import bucket, fitted
from wanbatch.pipeline.training.lora.model import TrainingModel


@dataclass(frozen=True, slots=True)
class Picture:
    """A training picture.

    Attributes:
        pixels: uint8 `[height, width, 3]`.
        caption: In its template.
    """

    pixels: np.ndarray
    caption: str


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures of a training, on the CPU, those of one size in one tensor.

    Attributes:
        latents: `[N, z, h, w]` of each size, normalised.
        captions: Of each of them.
        texts: Text states `[tokens, text_dim]` by caption; the empty prompt is among them.
    """

    latents: list[Tensor]
    captions: list[list[str]]
    texts: dict[str, Tensor]

    def __len__(self) -> int:
        return sum(map(len, self.captions))

    def split(self, share: float, seed: int) -> tuple[Examples, Examples]:
        """These without some that are kept apart, and those.

        Args:
            share: Part that is kept apart; one at least, if there are four and more.
            seed: Of the choice.
        """
        count = 0 if len(self) < 4 or share <= 0 else max(1, round(share * len(self)))
        apart = set(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count].tolist())
        sides: tuple[list[list[int]], list[list[int]]] = ([], [])
        first = 0
        for captions in self.captions:
            for side, kept in zip(sides, (False, True), strict=True):
                side.append([i for i in range(len(captions)) if (first + i in apart) == kept])
            first += len(captions)
        training, held = (self._chosen(side) for side in sides)
        return training, held

    def _chosen(self, rows: list[list[int]]) -> Examples:
        kept = [(latents[chosen], [captions[i] for i in chosen]) for latents, captions, chosen in
                zip(self.latents, self.captions, rows, strict=True) if chosen]  # fmt: skip
        return Examples([latents for latents, _ in kept], [captions for _, captions in kept], self.texts)


def encode_examples(
    pictures: Iterable[Picture], model: TrainingModel, area: int, cache: Path, told: Callable[[int], None]
) -> Examples:
    """Encode pictures and captions, or read what an earlier run kept of them.

    Args:
        pictures: Of the training; read one at a time.
        model: Its VAE and text encoder are used.
        area: Of a picture, in pixels.
        cache: Folder of what was encoded.
        told: Called with the number of each picture that is done.
    """
    cache.mkdir(parents=True, exist_ok=True)
    sizes: dict[tuple[int, int], tuple[list[Tensor], list[str]]] = {}
    for number, picture in enumerate(pictures):
        height, width = picture.pixels.shape[:2]
        size = bucket(width, height, model.info.multiple, area)
        latents, captions = sizes.setdefault(size, ([], []))
        latents.append(_latent(picture, size, model, cache))
        captions.append(picture.caption)
        told(number + 1)
    wanted = dict.fromkeys(["", *(caption for _, captions in sizes.values() for caption in captions)])
    texts = {prompt: states.cpu() for prompt, states in model.embeddings(list(wanted)).items()}
    return Examples(
        [torch.stack(latents) for latents, _ in sizes.values()], [captions for _, captions in sizes.values()], texts
    )


@torch.no_grad()
def _latent(picture: Picture, size: tuple[int, int], model: TrainingModel, cache: Path) -> Tensor:
    """`[z, h, w]` of a picture, from the cache if it is there whole."""
    key = hashlib.sha256(f"{model.info.digest}\0{size}\0{picture.pixels.shape}\0".encode())
    key.update(picture.pixels.tobytes())
    file = cache / f"{key.hexdigest()[:32]}.safetensors"
    try:
        return load_file(file)["latent"]
    except (FileNotFoundError, SafetensorError, KeyError):
        pass
    pixels = np.asarray(fitted(Image.fromarray(picture.pixels), size))
    weight = next(model.vae.parameters())
    latent = model.vae.encode(to_model(pixels, model.device).to(weight.dtype))[0].float().cpu().contiguous()
    unfinished = file.with_suffix(".new")
    save_file({"latent": latent}, unfinished)
    unfinished.replace(file)
    return latent
