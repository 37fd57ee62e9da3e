"""What a distillation learns from: consistency along the teacher's path, and the matching of distributions.

A sample at noise level s is `x = (1 - s) * x0 + s * noise`, a network predicts the velocity v = noise - x0, so its
picture is `x - s * v`. Pictures are compared in fp32.

* Discrete consistency: from two neighbouring levels of the teacher's guided path the student must see the same
  picture (Song et al. 2023, arXiv:2303.01469; Luo et al. 2023, arXiv:2310.04378).
* Distribution matching: the student's pictures are moved to where the teacher sees more of them than they are, the
  "fake score" being a network that learned what the student makes (Yin et al. 2024, arXiv:2311.18828, in the form of
  Luo et al. 2025, arXiv:2503.06674). The guidance is a term of its own, at levels of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.training.few_step.drawing import Drawing
from wanbatch.pipeline.training.few_step.levels import HIGHEST, LOWEST, shifted

Network = Callable[[Tensor, Tensor, "Prompts"], Tensor]
"""(noisy latents `[B, ...]`, levels `[B]`, prompts) -> velocity, fp32."""

Guidance = Callable[[Tensor], Tensor]
"""Levels `[B]` -> the scale of classifier-free guidance there, `[B, 1, 1, 1]`."""

SMALLEST_SCALE = 0.1
DRAWING = Drawing()  # for a process that is alone


@dataclass(frozen=True, slots=True)
class Prompts:
    """Text states of a batch.

    Attributes:
        embeds: `[B, L, text_dim]`, zero past each row's length.
        lengths: int64 `[B]`.
    """

    embeds: Tensor
    lengths: Tensor

    def joined(self, other: Prompts) -> Prompts:
        """Both batches, one after the other."""
        return Prompts(torch.cat([self.embeds, other.embeds]), torch.cat([self.lengths, other.lengths]))


@dataclass(frozen=True, slots=True)
class Networks:
    """The three networks of a distillation, and what the teacher is told where guidance leads away from.

    Attributes:
        teacher: As the model is; never trained.
        student: Makes pictures in few steps.
        fake: Learns the distribution of the student's pictures.
        negative: Returns the negative prompt for as many rows.
    """

    teacher: Network
    student: Network
    fake: Network
    negative: Callable[[int], Prompts]


def wide(level: Tensor) -> Tensor:
    """Levels `[B]` as `[B, 1, 1, 1]`."""
    return level[:, None, None, None]


def noised(picture: Tensor, level: Tensor, drawing: Drawing = DRAWING) -> Tensor:
    """A picture at a noise level, with new noise."""
    return (1 - wide(level)) * picture + wide(level) * drawing.normal_like(picture)


def picture_of(network: Network, noisy: Tensor, level: Tensor, prompts: Prompts) -> Tensor:
    """The picture that a network sees."""
    return noisy - wide(level) * network(noisy, level, prompts)


@torch.no_grad()
def guided_velocity(networks: Networks, noisy: Tensor, level: Tensor, prompts: Prompts, guidance: Guidance) -> Tensor:
    """The teacher's velocity with classifier-free guidance, by one evaluation of both prompts."""
    both = prompts.joined(networks.negative(len(noisy)))
    positive, negative = networks.teacher(noisy.repeat(2, 1, 1, 1), level.repeat(2), both).chunk(2)
    return negative + guidance(level) * (positive - negative)


def consistency_loss(
    networks: Networks,
    latents: Tensor,
    prompts: Prompts,
    *,
    steps: int,
    shift: float,
    guidance: Guidance,
    drawing: Drawing = DRAWING,
) -> Tensor:
    """Mean squared difference between the student's pictures at two neighbouring levels of the teacher's path.

    Args:
        networks: Of the distillation.
        latents: `[B, z, h, w]`, that the teacher made of the prompts.
        prompts: Of the latents.
        steps: Into how many steps the levels are cut.
        shift: Of the levels.
        guidance: Of the teacher.
        drawing: Gives the levels and the noise.
    """
    step = 1 / steps
    u = step + drawing.uniform_like(latents[:, 0, 0, 0]) * (1 - step)
    level, lower = shifted(u, shift), shifted((u - step).clamp(min=0), shift)
    noisy = noised(latents, level, drawing)
    velocity = guided_velocity(networks, noisy, level, prompts, guidance)
    with torch.no_grad():
        target = picture_of(networks.student, noisy + wide(lower - level) * velocity, lower, prompts)
    return F.mse_loss(picture_of(networks.student, noisy, level, prompts), target)


@torch.no_grad()
def roll_out(student: Network, start: Tensor, levels: Tensor, prompts: Prompts) -> Tensor:
    """The student's sample at the last of some levels, by Euler's method from the first.

    Args:
        student: The network.
        start: `[B, z, h, w]` at the first level.
        levels: `[evaluations, B]`.
        prompts: Of the rows.
    """
    noisy = start
    for level, lower in pairwise(levels):
        noisy = noisy + wide(lower - level) * student(noisy, level, prompts)
    return noisy


def matching_loss(
    networks: Networks,
    noisy: Tensor,
    u: Tensor,
    prompts: Prompts,
    *,
    shift: float,
    guidance: Guidance,
    strength: float,
    drawing: Drawing = DRAWING,
) -> Tensor:
    """A loss whose gradient moves the student's pictures from where they are too many to where the teacher has more.

    Args:
        networks: Of the distillation.
        noisy: `[B, z, h, w]`, samples of a rollout.
        u: `[B]`, their levels before the shift.
        prompts: Of the rows.
        shift: Of the levels.
        guidance: Of the teacher.
        strength: Of the guidance term.
        drawing: Gives the levels and the noise.
    """
    made = picture_of(networks.student, noisy, shifted(u, shift), prompts)
    with torch.no_grad():
        ours = made.detach()
        level = shifted(LOWEST + (HIGHEST - LOWEST) * drawing.uniform_like(u), shift)
        guided = shifted((u * drawing.uniform_like(u)).clamp(min=LOWEST, max=HIGHEST), shift)
        first, second = noised(ours, level, drawing), noised(ours, guided, drawing)
        three = torch.cat([first, second, second])
        levels = torch.cat([level, guided, guided])
        texts = prompts.joined(prompts).joined(networks.negative(len(ours)))
        real, positive, negative = picture_of(networks.teacher, three, levels, texts).chunk(3)
        fake = picture_of(networks.fake, first, level, prompts)
        direction = (fake - real) / _scale(ours, real)
        direction -= strength * (guidance(guided) - 1) * (positive - negative) / _scale(ours, positive)
        target = ours - direction
    return 0.5 * F.mse_loss(made, target)


def fake_loss(
    networks: Networks, noisy: Tensor, u: Tensor, prompts: Prompts, *, shift: float, drawing: Drawing = DRAWING
) -> Tensor:
    """The flow matching loss of the fake score on pictures that the student makes of samples at levels `u`."""
    with torch.no_grad():
        made = picture_of(networks.student, noisy, shifted(u, shift), prompts)
    level = shifted(LOWEST + (HIGHEST - LOWEST) * drawing.uniform_like(u), shift)
    noise = drawing.normal_like(made)
    mixed = (1 - wide(level)) * made + wide(level) * noise
    return F.mse_loss(networks.fake(mixed, level, prompts), noise - made)


def _scale(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().mean((1, 2, 3), keepdim=True).clamp(min=SMALLEST_SCALE)
