"""The networks of a distillation (one transformer with adapters), its prompts, and its teacher's latents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.sampling.schedules import levels as schedule_levels
from wanbatch.pipeline.training.few_step.losses import Network, Networks, Prompts
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.processes import ALONE, Processes

STUDENT, FAKE = "student", "fake"
LATENTS_FILE = "teacher-latents.pt"


@dataclass(frozen=True, slots=True)
class PromptBank:
    """Prompts, and what the teacher made of the first of them, on the training device.

    Attributes:
        prompts: Of all rows.
        negative: One row, as long as the others.
        latents: `[M, z, h, w]`, normalised, of the first M prompts.
    """

    prompts: Prompts
    negative: Prompts
    latents: Tensor

    def at(self, rows: Tensor) -> Prompts:
        """Some prompts."""
        return Prompts(self.prompts.embeds[rows].float(), self.prompts.lengths[rows])

    def negatives(self, count: int) -> Prompts:
        """The negative prompt so many times."""
        return Prompts(self.negative.embeds.float().expand(count, -1, -1), self.negative.lengths.expand(count))


def adapted_networks(dit: FrameTransformer, adapters: LowRankAdapters, bank: PromptBank) -> Networks:
    """The networks of a distillation, which are one transformer; on a GPU in bf16 where autocast says so."""

    def network(name: str | None) -> Network:
        def velocity(noisy: Tensor, level: Tensor, prompts: Prompts) -> Tensor:
            device = noisy.device.type
            # A cache of cast weights would outlive the captured step that filled it.
            with (
                adapters.active(name),
                torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False),
            ):
                context = dit.context(prompts.embeds, prompts.lengths, TEXT_TOKENS)
                return dit(noisy, level * 1000, context).float()

        return velocity

    return Networks(network(None), network(STUDENT), network(FAKE), bank.negatives)


@torch.no_grad()
def teacher_latents(
    networks: Networks,
    bank: PromptBank,
    count: int,
    shape: tuple[int, ...],
    settings: FewStepSettings,
    processes: Processes = ALONE,
) -> Tensor:
    """What the teacher makes of the first `count` prompts, by Euler's method with guidance.

    Each process makes its part of every batch, and all get all of it.

    Args:
        networks: Of which the teacher is asked.
        bank: Its latents are not looked at.
        count: How many.
        shape: Of one latent.
        settings: Guidance, shift and number of steps.
        processes: That make them together.
    """
    device = bank.prompts.lengths.device
    path = torch.tensor(schedule_levels(settings.teacher_steps, settings.shift), device=device).float().tolist()
    made = []
    for rows in torch.arange(count, device=device).split(settings.batch):
        whole = torch.randn(len(rows), *shape, device=device)  # all draw the same
        own = rows[processes.part]
        # A copy, since the whole is overwritten.
        noisy, both = whole[processes.part].clone(), bank.at(own).joined(bank.negatives(len(own)))
        for level, lower in pairwise(path if len(own) else []):
            levels = torch.full((2 * len(own),), level, device=device)
            positive, negative = networks.teacher(noisy.repeat(2, 1, 1, 1), levels, both).chunk(2)
            noisy = noisy + (lower - level) * (negative + settings.guidance * (positive - negative))
        whole.zero_()[processes.part] = noisy
        made.append(whole)
    return processes.sum(torch.cat(made))


def with_latents(
    dit: FrameTransformer,
    adapters: LowRankAdapters,
    bank: PromptBank,
    settings: FewStepSettings,
    out: Path,
    processes: Processes = ALONE,
) -> PromptBank:
    """A bank with what the teacher makes of its first prompts, which is made once a folder.

    Args:
        dit: The teacher.
        adapters: Of the teacher.
        bank: Its latents have the shape `[0, z, h, w]` of those to make.
        settings: How many, and how they are made.
        out: The folder, which keeps them.
        processes: That make them together; the first one writes.
    """
    file = out / LATENTS_FILE
    there = file.exists()
    processes.wait()  # all have looked before one writes
    if there:
        latents = torch.load(file, map_location=bank.latents.device, weights_only=True)
    else:
        count = min(settings.teacher_latents, len(bank.prompts.lengths))
        networks = adapted_networks(dit, adapters, bank)
        latents = teacher_latents(networks, bank, count, tuple(bank.latents.shape[1:]), settings, processes).half()
        if processes.first:
            unfinished = file.with_suffix(".new")
            torch.save(latents, unfinished)
            unfinished.replace(file)
    return PromptBank(bank.prompts, bank.negative, latents.float())
