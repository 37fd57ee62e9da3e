"""The steps of a distillation: each draws a batch, and learns from the loss on this process's part of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wanbatch.pipeline.training.few_step.drawing import Drawing
from wanbatch.pipeline.training.few_step.levels import random_schedule, shifted, unshifted
from wanbatch.pipeline.training.few_step.losses import (
    Guidance,
    Networks,
    Prompts,
    consistency_loss,
    fake_loss,
    matching_loss,
    roll_out,
    wide,
)
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import FAKE, STUDENT, PromptBank
from wanbatch.pipeline.training.processes import Processes
from wanbatch.pipeline.training.resumable import Learner


class DistillationSteps:
    """All kinds of steps. Each returns its loss, the mean over all processes, on the device.

    Args:
        networks: Of the distillation.
        learners: Of the student and of the fake score, by name.
        bank: Prompts and latents.
        settings: All numbers.
        guidance: Of the teacher.
        processes: That make each step together.
    """

    def __init__(
        self,
        networks: Networks,
        learners: Mapping[str, Learner],
        bank: PromptBank,
        settings: FewStepSettings,
        guidance: Guidance,
        processes: Processes,
    ):
        self._networks, self._learners, self._bank, self._settings = networks, learners, bank, settings
        self._guidance = guidance
        self._processes, self._drawing = processes, Drawing(processes)
        self._device = bank.latents.device
        self._steps_of_schedule = torch.ones((), device=self._device)

    def consistency(self) -> Tensor:
        """One step of the student from two neighbouring levels of the teacher's path."""
        settings, bank = self._settings, self._bank
        rows = torch.randint(len(bank.latents), (settings.batch,), device=self._device)[self._processes.part]
        loss = consistency_loss(
            self._networks, bank.latents[rows].float(), bank.at(rows), steps=settings.consistency_steps,
            shift=settings.shift, guidance=self._guidance, drawing=self._drawing,
        )  # fmt: skip
        return self._learners[STUDENT].learn(loss, self._processes)

    def matching(self, evaluations: int) -> Tensor:
        """One step of the student towards what the teacher sees; `evaluations`: of the rollout."""
        settings = self._settings
        noisy, u, prompts = self._rolled_out(evaluations)
        loss = matching_loss(
            self._networks, noisy, u, prompts, shift=settings.shift, guidance=self._guidance,
            strength=settings.guidance_strength, drawing=self._drawing,
        )  # fmt: skip
        return self._learners[STUDENT].learn(loss, self._processes)

    def fake(self, evaluations: int) -> Tensor:
        """One step of the fake score on what the student makes; `evaluations`: of the rollout."""
        noisy, u, prompts = self._rolled_out(evaluations)
        loss = fake_loss(self._networks, noisy, u, prompts, shift=self._settings.shift, drawing=self._drawing)
        return self._learners[FAKE].learn(loss, self._processes)

    def draw_evaluations(self) -> int:
        """How many steps a rollout's schedule has, which the captured steps read, and at which of them it ends."""
        counts = self._settings.step_counts
        steps = counts[int(torch.randint(len(counts), ()))]
        self._steps_of_schedule.fill_(float(steps))
        return 1 + int(torch.randint(steps, ()))

    @torch.no_grad()
    def _rolled_out(self, evaluations: int) -> tuple[Tensor, Tensor, Prompts]:
        """The student's samples before the last of some evaluations, their levels before the shift, the prompts."""
        settings, bank, device, part = self._settings, self._bank, self._device, self._processes.part
        count = settings.batch
        prompts = bank.at(torch.randint(len(bank.prompts.lengths), (count,), device=device)[part])
        rows, others = torch.randint(len(bank.latents), (2, count), device=device)[:, part]
        weight = torch.where(torch.rand(count, device=device) < 0.5, torch.rand(count, device=device), 1.0)[part]
        source = wide(weight) * bank.latents[rows].float() + wide(1 - weight) * bank.latents[others].float()
        span = 1 - settings.lowest_creativity
        creativity = settings.lowest_creativity + span * torch.rand(count, device=device)
        drawn = unshifted(creativity, settings.shift)
        first = torch.where(torch.rand(count, device=device) < settings.source_share, drawn, 1.0)
        levels = random_schedule(first, evaluations, self._steps_of_schedule, settings.even_share)[:, part]
        highest = wide(shifted(first[part], settings.shift))
        start = (1 - highest) * source + highest * self._drawing.normal_like(source)
        return (
            roll_out(self._networks.student, start, shifted(levels, settings.shift), prompts),
            levels[-1],
            prompts,
        )
