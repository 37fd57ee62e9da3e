"""What an adapter for few steps does, as numbers and as pictures, and whether its file is what was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import STUDENT
from wanbatch.pipeline.training.lora.measures import sheet_of
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.read_back import read_back

SEEDS = 4  # pictures of each prompt


@dataclass(frozen=True, slots=True)
class Measures:
    """An adapter for few steps in numbers; latents are compared, the norm of a difference over the teacher's norm.

    Attributes:
        pictures: How many were made each way, of the same prompts from the same noise.
        distance_without: From the teacher's pictures, of the model as it was in as few steps without guidance.
        distance_with: The same with the adapter.
        diversity_of_teacher: Mean distance of two of the teacher's pictures of one prompt.
        diversity_with: The same with the adapter.
        file_difference: Of the velocity with the file, as a run reads it, from the velocity at the training's end,
            relative.
        coverage: How much of the model the file changes, in words.
        base_difference: See `ReadBack`.
        change_difference: See `ReadBack`.
    """

    pictures: int
    distance_without: float
    distance_with: float
    diversity_of_teacher: float
    diversity_with: float
    file_difference: float
    coverage: str
    base_difference: float | None = None
    change_difference: float | None = None

    @classmethod
    def read(cls, path: Path) -> Measures:
        """Measures of a file that has them beside other values."""
        found = json.loads(path.read_text())
        return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})

    def as_dict(self) -> dict[str, float | int | str]:
        """Plain values, rounded, without those that there are not."""
        found = {key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Pictures:
    """Latents `[prompts * SEEDS, z, h, w]` of the same prompts from the same noise, made in three ways."""

    prompts: list[str]
    teacher: Tensor
    without: Tensor
    with_it: Tensor


def measure(
    model: TrainingModel,
    adapters: LowRankAdapters,
    file: Path,
    settings: FewStepSettings,
    size: tuple[int, int],
    prompts: Sequence[str],
) -> tuple[Measures, Pictures]:
    """Measure an adapter.

    Args:
        model: The teacher.
        adapters: Of the model; the student's weights are those that were saved.
        file: That was saved.
        settings: Of the distillation.
        size: (width, height) of a picture in pixels.
        prompts: Of which `SEEDS` pictures are made each.
    """
    made = _pictures(model, adapters, settings, size, prompts)
    read = read_back(model, adapters, STUDENT, file)
    found = Measures(
        pictures=len(made.teacher),
        distance_without=_distance(made.without, made.teacher),
        distance_with=_distance(made.with_it, made.teacher),
        diversity_of_teacher=_diversity(made.teacher, made.teacher),
        diversity_with=_diversity(made.with_it, made.teacher),
        file_difference=read.difference,
        coverage=read.coverage,
        base_difference=read.base_difference,
        change_difference=read.change_difference,
    )
    return found, made


def _pictures(
    model: TrainingModel,
    adapters: LowRankAdapters,
    settings: FewStepSettings,
    size: tuple[int, int],
    prompts: Sequence[str],
) -> Pictures:
    negative = model.info.negative_prompt
    known = model.embeddings([*prompts, negative])
    states = [known[prompt] for prompt in prompts for _ in range(SEEDS)]

    def made(active: str | None, steps: int, guidance: float, guidance_2: float) -> Tensor:
        with adapters.active(active):
            return model.latents_of(
                states, known[negative], size, steps, shift=settings.shift, guidance=guidance, guidance_2=guidance_2
            )

    return Pictures(
        list(prompts),
        made(None, settings.teacher_steps, settings.guidance, settings.guidance_2 or settings.guidance),
        made(None, settings.main_steps, 1.0, 1.0),
        made(STUDENT, settings.main_steps, 1.0, 1.0),
    )


def _distance(latents: Tensor, others: Tensor) -> float:
    return float(torch.linalg.vector_norm(latents - others) / torch.linalg.vector_norm(others))


def _diversity(latents: Tensor, teacher: Tensor) -> float:
    """Mean over prompts and pairs of seeds."""
    groups = zip(latents.split(SEEDS), teacher.split(SEEDS), strict=True)
    distances = [
        torch.linalg.vector_norm(group[one] - group[other]) / torch.linalg.vector_norm(norm[0])
        for group, norm in groups
        for one, other in combinations(range(len(group)), 2)
    ]
    return float(torch.stack(distances).mean())


def sheet(model: TrainingModel, pictures: Pictures) -> Image.Image:
    """One picture of each prompt: the teacher's, then in few steps without the adapter, then with it."""
    ways = (pictures.teacher, pictures.without, pictures.with_it)
    return sheet_of(model, [latents[::SEEDS] for latents in ways])
