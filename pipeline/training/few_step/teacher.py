"""The networks of a distillation (one transformer with adapters), its prompts, and its teacher's latents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from wanbatch.pipeline.sampling.schedules import levels as schedule_levels
from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.few_step.losses import Guidance, Network, Networks, Prompts, wide
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.state_file import load_state, save_state

STUDENT, FAKE = "student", "fake"
LATENTS_FILE = "teacher-latents.pt"
AFTER_THE_TEACHER = 1000  # added to the seed; those right behind it are of the adapters' beginnings


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


def adapted_networks(experts: Experts, adapters: LowRankAdapters, bank: PromptBank) -> Networks:
    """The networks of a distillation, which are one model; on a GPU in bf16 where autocast says so."""

    def network(name: str | None) -> Network:
        def velocity(noisy: Tensor, level: Tensor, prompts: Prompts) -> Tensor:
            with adapters.active(name):
                return experts.velocity(noisy, level, prompts.embeds, prompts.lengths)

        return velocity

    return Networks(network(None), network(STUDENT), network(FAKE), bank.negatives)


def guidance_of(experts: Experts, settings: FewStepSettings) -> Guidance:
    """The guidance of a teacher."""
    high, low = settings.guidance, settings.guidance_2 or settings.guidance
    return lambda level: wide(experts.of_level(level, high, low))


@torch.no_grad()
def teacher_latents(
    networks: Networks,
    guidance: Guidance,
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
        guidance: Of the teacher.
        bank: Its latents are not looked at.
        count: How many.
        shape: Of one latent.
        settings: Shift and number of steps.
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
            scale = guidance(levels[: len(own)])
            noisy = noisy + (lower - level) * (negative + scale * (positive - negative))
        whole.zero_()[processes.part] = noisy
        made.append(whole)
    return processes.sum(torch.cat(made))


def with_latents(
    experts: Experts,
    adapters: LowRankAdapters,
    bank: PromptBank,
    settings: FewStepSettings,
    out: Path,
    processes: Processes = ALONE,
) -> PromptBank:
    """A bank with what the teacher makes of its first prompts, which is made once a folder.

    The teacher draws random numbers only where its latents are not there yet; those that come after it are the same
    in any case.

    Args:
        experts: The teacher.
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
        latents = load_state(file, bank.latents.device)
    else:
        count = min(settings.teacher_latents, len(bank.prompts.lengths))
        networks, shape = adapted_networks(experts, adapters, bank), tuple(bank.latents.shape[1:])
        guidance = guidance_of(experts, settings)
        latents = teacher_latents(networks, guidance, bank, count, shape, settings, processes).half()
        if processes.first:
            save_state(latents, file)
    torch.manual_seed(settings.seed + AFTER_THE_TEACHER)
    return PromptBank(bank.prompts, bank.negative, latents.float())
