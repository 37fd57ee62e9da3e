"""Training pictures as the training takes them: latents and text states, made once and kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.core.tensor_files import save_tensors
from wanbatch.pipeline.training.lora.buckets import bucket, fitted
from wanbatch.pipeline.training.lora.model import TrainingModel

UNMASKED_WEIGHT = 0.1  # of the loss where a mask is black, as other trainers have it


@dataclass(frozen=True, slots=True)
class Picture:
    """A training picture.

    Attributes:
        pixels: uint8 `[height, width, 3]`.
        caption: In its template.
        mask: uint8 `[height, width]`, 255 where it is learned from; None: everywhere.
    """

    pixels: np.ndarray
    caption: str
    mask: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures of a training, on the CPU, those of one size in one tensor.

    Attributes:
        latents: `[N, z, h, w]` of each size, normalised.
        captions: Of each of them.
        texts: Text states `[tokens, text_dim]` by caption; the empty prompt is among them.
        weights: Of the loss, `[N, h, w]` of each size; empty: the same everywhere.
    """

    latents: list[Tensor]
    captions: list[list[str]]
    texts: dict[str, Tensor]
    weights: list[Tensor] = field(default_factory=list)

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
        kept = [(place, chosen) for place, chosen in enumerate(rows) if chosen]
        return Examples(
            [self.latents[place][chosen] for place, chosen in kept],
            [[self.captions[place][row] for row in chosen] for place, chosen in kept],
            self.texts,
            [self.weights[place][chosen] for place, chosen in kept] if self.weights else [],
        )


def encode_examples(
    pictures: Iterable[Picture],
    model: TrainingModel,
    area: int,
    cache: Path,
    told: Callable[[int], None],
    unmasked_weight: float = UNMASKED_WEIGHT,
) -> Examples:
    """Encode pictures and captions, or read what an earlier run kept of them.

    Args:
        pictures: Of the training; read one at a time.
        model: Its VAE and text encoder are used.
        area: Of a picture, in pixels.
        cache: Folder of what was encoded.
        told: Called with the number of each picture that is done.
        unmasked_weight: Of the loss where masks are black; 1 where they are white. All pictures have masks, or none.
    """
    cache.mkdir(parents=True, exist_ok=True)
    sizes: dict[tuple[int, int], tuple[list[Tensor], list[str], list[Tensor]]] = {}
    for number, picture in enumerate(pictures):
        height, width = picture.pixels.shape[:2]
        size = bucket(width, height, model.info.multiple, area)
        latents, captions, weights = sizes.setdefault(size, ([], [], []))
        latents.append(_latent(picture, size, model, cache))
        captions.append(picture.caption)
        if picture.mask is not None:
            weights.append(_weight(picture.mask, size, model.stride, unmasked_weight))
        told(number + 1)
    wanted = dict.fromkeys(["", *(caption for _, captions, _ in sizes.values() for caption in captions)])
    return Examples(
        [torch.stack(latents) for latents, _, _ in sizes.values()],
        [captions for _, captions, _ in sizes.values()],
        _texts(list(wanted), model, cache),
        [torch.stack(weights) for _, _, weights in sizes.values() if weights],
    )


def _weight(mask: np.ndarray, size: tuple[int, int], stride: int, unmasked: float) -> Tensor:
    """`[h, w]`, of the loss at each place of the latents: a mask brought to the size of its picture, and averaged."""
    pixels = np.asarray(fitted(Image.fromarray(mask), size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    white = F.avg_pool2d(torch.from_numpy(pixels)[None], stride)[0]
    return unmasked + (1 - unmasked) * white


@torch.no_grad()
def _latent(picture: Picture, size: tuple[int, int], model: TrainingModel, cache: Path) -> Tensor:
    """`[z, h, w]` of a picture, from the cache if it is there whole."""
    key = hashlib.sha256(f"{model.info.digest}\0{size}\0{picture.pixels.shape}\0".encode())
    key.update(picture.pixels.tobytes())
    file = cache / f"{key.hexdigest()[:32]}.safetensors"
    if (kept := _kept(file, "latent")) is not None:
        return kept
    pixels = np.asarray(fitted(Image.fromarray(picture.pixels), size))
    weight = next(model.vae.parameters())
    latent = model.vae.encode(to_model(pixels, model.device).to(weight.dtype))[0].float().cpu().contiguous()
    _keep(file, "latent", latent)
    return latent


def _texts(prompts: list[str], model: TrainingModel, cache: Path) -> dict[str, Tensor]:
    """Text states `[tokens, text_dim]` of prompts; the cache's, but those that are not in it whole."""
    dtype = next(model.vae.parameters()).dtype
    files = {}
    for prompt in prompts:
        key = hashlib.sha256(f"{model.info.digest}\0{dtype}\0{model.device.type}\0{prompt}".encode())
        files[prompt] = cache / f"text-{key.hexdigest()[:32]}.safetensors"
    kept = {prompt: _kept(file, "states") for prompt, file in files.items()}
    lacking = [prompt for prompt, states in kept.items() if states is None]
    for prompt, states in model.embeddings(lacking).items() if lacking else ():
        _keep(files[prompt], "states", states.cpu().contiguous())
        kept[prompt] = states.cpu()
    return {prompt: states for prompt, states in kept.items() if states is not None}


def _kept(file: Path, name: str) -> Tensor | None:
    """A tensor of the cache; None: it is not there whole."""
    try:
        return load_file(file)[name]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _keep(file: Path, name: str, tensor: Tensor) -> None:
    save_tensors({name: tensor}, file)
