"""What an adapter brings and what it breaks, as numbers, and whether its file is what was trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.evaluation.metrics import psnr_of
from wanbatch.pipeline.training.lora.examples import Examples
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.training import fixed_loss
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.read_back import read_back


@dataclass(frozen=True, slots=True)
class Measures:
    """An adapter in numbers.

    Attributes:
        held_out_pictures: How many there are that it was not trained on; 0: the training's own were taken.
        loss_without: On those, of the model as it was; noise and levels are always the same.
        loss_with: The same with the adapter.
        gain: By what part the loss fell.
        unrelated_loss_without: On pictures that the model itself makes of unrelated prompts.
        unrelated_loss_with: The same with the adapter active.
        damage: By what part that loss rose; 0: the adapter leaves such pictures to the model.
        unrelated_psnr: Of these pictures with the adapter against without, from the same noise, in dB.
        file_difference: Of the velocity with the file, as a run reads it, from the velocity at the training's end,
            relative.
        coverage: How much of the model the file changes, in words.
        base_difference: See `ReadBack`.
        change_difference: See `ReadBack`.
    """

    held_out_pictures: int
    loss_without: float
    loss_with: float
    gain: float
    unrelated_loss_without: float
    unrelated_loss_with: float
    damage: float
    unrelated_psnr: float
    file_difference: float
    coverage: str
    base_difference: float | None = None
    change_difference: float | None = None

    def as_dict(self) -> dict[str, float | int | str]:
        """Plain values, rounded, without those that there are not."""
        found = {key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pictures of prompts without and with an adapter, from the same noise: latents of each."""

    prompts: list[str]
    without: Tensor
    with_it: Tensor


@torch.no_grad()
def compare(
    model: TrainingModel,
    adapters: LowRankAdapters,
    name: str,
    prompts: Sequence[str],
    size: tuple[int, int],
    steps: int,
) -> Comparison:  # fmt: skip
    """Make pictures of prompts without and with an adapter.

    Args:
        model: Of the training.
        adapters: Of the model.
        name: Of the adapter.
        prompts: Of the pictures.
        size: (width, height) in pixels.
        steps: Of the schedule.
    """
    negative = model.info.negative_prompt
    known = model.embeddings([*prompts, negative])
    made = []
    for active in (None, name):
        with adapters.active(active):
            made.append(model.latents_of([known[prompt] for prompt in prompts], known[negative], size, steps))
    return Comparison(list(prompts), *made)


def measure(
    model: TrainingModel, adapters: LowRankAdapters, name: str, examples: tuple[Examples, int], unrelated: Comparison,
    file: Path,
) -> Measures:  # fmt: skip
    """Measure an adapter.

    Args:
        model: Of the training.
        adapters: Of the model; the adapter's weights are those that were saved.
        name: Of the adapter.
        examples: That are measured on, and how many of them were held out.
        unrelated: Pictures of prompts that have nothing to do with the adapter.
        file: That was saved.
    """
    texts = {prompt: states.cpu() for prompt, states in model.embeddings(unrelated.prompts).items()}
    own = Examples([unrelated.without.cpu()], [unrelated.prompts], texts)
    losses = {}
    for active in (None, name):
        with adapters.active(active):
            losses[active] = (fixed_loss(model, examples[0]), fixed_loss(model, own))
    before, after = decoded(model, unrelated.without), decoded(model, unrelated.with_it)
    psnr = [psnr_of(to_pixels(one), to_pixels(other)) for one, other in zip(before, after, strict=True)]
    found = read_back(model, adapters, name, file)
    return Measures(
        held_out_pictures=examples[1],
        loss_without=losses[None][0],
        loss_with=losses[name][0],
        gain=1 - losses[name][0] / losses[None][0],
        unrelated_loss_without=losses[None][1],
        unrelated_loss_with=losses[name][1],
        damage=losses[name][1] / losses[None][1] - 1,
        unrelated_psnr=math.fsum(psnr) / len(psnr),
        file_difference=found.difference,
        coverage=found.coverage,
        base_difference=found.base_difference,
        change_difference=found.change_difference,
    )


@torch.no_grad()
def decoded(model: TrainingModel, latents: Tensor) -> list[Tensor]:
    """Pictures fp32 `[3, height, width]` in [-1, 1] of latents, one after the other."""
    dtype = next(model.vae.parameters()).dtype
    return [model.vae.decode(latent[None].to(dtype))[0].float() for latent in latents]


def sheet(model: TrainingModel, comparisons: Sequence[Comparison]) -> Image.Image:
    """Pictures without an adapter above those with it, a pair of lines for each comparison."""
    return sheet_of(model, [side for each in comparisons for side in (each.without, each.with_it)])


def sheet_of(model: TrainingModel, lines: Sequence[Tensor]) -> Image.Image:
    """Lines of pictures, each of latents `[B, z, h, w]`, one below the other."""
    pictures = [[Image.fromarray(to_pixels(picture)) for picture in decoded(model, line)] for line in lines]
    width, height = pictures[0][0].size
    whole = Image.new("RGB", (max(map(len, pictures)) * (width + 4), len(pictures) * (height + 4)), "white")
    for row, line in enumerate(pictures):
        for column, picture in enumerate(line):
            whole.paste(picture, (column * (width + 4), row * (height + 4)))
    return whole
