"""Attention distillation: an adapter learns tokens of sounds that the model's attention answers as it does captions.

Two stages. In the first the answers of the frozen attention to the text, block by block, are to be those that it
gives for the caption. In the second the whole model's velocity is, at the noise levels where a picture is decided.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.models.text_context import CrossAttentionContext
from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.sound.teacher import LEVELS, Lessons, Teacher
from wanbatch.pipeline.training.state_file import load_state, save_state

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""Of a number: so many random sounds, float32 [batch, samples], and which caption belongs to each; `NOTHING` to noise
in which nothing is to be heard."""

NOTHING = -1
"""In place of a caption's index."""

Reading = Callable[[Tensor, Tensor], Tensor]
"""Of an encoder's frames and the captions' indices: a further loss; for the small world how well frames tell them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how an adapter is trained.

    Attributes:
        batch: sounds a step.
        rate: the highest learning rate.
        velocity_share: the last part of the training, in which the velocity is what is learnt.
        velocity_batch: sounds a step in that part.
    """

    batch: int = 64
    rate: float = 2e-3
    velocity_share: float = 0.4
    velocity_batch: int = 32


def distill(
    adapter: SoundAdapter,
    teacher: Teacher,
    lessons: Lessons,
    draw: Draw,
    budget: Budget,
    plan: Plan,
    state: Path,
    reading: Reading | None = None,
    generators: Sequence[torch.Generator] = (),
) -> dict[str, float]:
    """Train an adapter; goes on where an earlier call with the same `state` ended.

    Args:
        adapter: on the teacher's device.
        teacher: the frozen model.
        lessons: recorded of the captions, by their indices.
        draw: gives sounds.
        budget: how long.
        plan: how.
        state: file that keeps what is needed to go on.
        reading: a further loss on the encoder's frames.
        generators: of `draw`, which draw on where the earlier call ended.
    """
    parameters = [one for one in adapter.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01)
    variance = _variance(teacher, lessons)
    _go_on(state, adapter, optimizer, budget, teacher.device, generators)
    shown = saved = time.monotonic()
    losses: dict[str, float] = {}
    for step in budget:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(plan.rate)
        loss, losses = _loss(adapter, teacher, lessons, draw, budget, plan, variance, reading)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(json.dumps({"step": step, "progress": round(budget.progress, 3), **losses}), flush=True)
        if time.monotonic() - saved > 30:
            saved = time.monotonic()
            _keep(state, adapter, optimizer, budget, step + 1, generators)
    _keep(state, adapter, optimizer, budget, budget.step, generators)
    return {**budget.spent(), **losses}


def _loss(
    adapter: SoundAdapter,
    teacher: Teacher,
    lessons: Lessons,
    draw: Draw,
    budget: Budget,
    plan: Plan,
    variance: Tensor,
    reading: Reading | None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step, and what it is made of."""
    late = budget.progress > 1 - plan.velocity_share
    sounds, captions = draw(plan.velocity_batch if late else plan.batch)
    frames = adapter.encoder(sounds)
    tokens, heard = adapter.resampler.tokens_and_gate(frames)
    sounding = captions != NOTHING
    gate = None if heard is None else F.binary_cross_entropy_with_logits(heard, sounding.float())
    frames, tokens, captions = frames[sounding], tokens[sounding], captions[sounding]
    context = teacher.of_sounds(tokens)
    if late:
        loss = _velocity_loss(teacher, lessons, context, captions)
    else:
        loss = _answer_loss(teacher, lessons, context, captions, variance)
    parts = {"velocity" if late else "answers": float(loss.detach())}
    if reading is not None:
        read = reading(frames, captions)
        parts["reading"] = float(read.detach())
        loss = loss + 0.2 * read
    if gate is not None:
        parts["gate"] = float(gate.detach())
        loss = loss + 0.2 * gate
    return loss, parts


def _go_on(
    state: Path,
    adapter: SoundAdapter,
    optimizer: torch.optim.Optimizer,
    budget: Budget,
    device: torch.device,
    generators: Sequence[torch.Generator],
) -> None:
    """Go on where an earlier call ended, if there was one."""
    if state.exists():
        kept = load_state(state, device)
        adapter.load_state_dict(kept["adapter"])
        optimizer.load_state_dict(kept["optimizer"])
        budget.go_on(kept["step"], kept["seconds"])
        if "random" in kept:  # states of before have none
            torch.set_rng_state(kept["random"].cpu())
            for generator, numbers in zip(generators, kept["generators"], strict=True):
                generator.set_state(numbers.cpu())


def _keep(
    state: Path,
    adapter: SoundAdapter,
    optimizer: torch.optim.Optimizer,
    budget: Budget,
    made: int,
    generators: Sequence[torch.Generator],
) -> None:
    """Write the state after `made` steps whole, then put it in place of the one before."""
    save_state(
        {
            "adapter": adapter.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": made,
            "seconds": budget.elapsed,
            "random": torch.get_rng_state(),
            "generators": [generator.get_state() for generator in generators],
        },
        state,
    )


def _levels(count: int, device: torch.device) -> Tensor:
    return torch.randint(len(LEVELS), (count,)).to(device)


@torch.no_grad()
def _variance(teacher: Teacher, lessons: Lessons) -> Tensor:
    """How much answers differ between captions, of each layer: [layers, 1, 1]."""
    count = min(64, len(lessons.queries), len(teacher.embeddings))
    queries = lessons.queries[:count, 0].float()
    answers = teacher.answers(teacher.of_captions(range(count)), queries[:1].expand(count, -1, -1, -1))
    return answers.var(dim=0, correction=0).mean((1, 2))[:, None, None].clamp_min(1e-8)


def _answer_loss(
    teacher: Teacher, lessons: Lessons, context: CrossAttentionContext, captions: Tensor, variance: Tensor
) -> Tensor:
    queries = lessons.queries[captions, _levels(len(captions), captions.device)].float()
    with torch.no_grad():
        wanted = teacher.answers(teacher.of_captions(captions.tolist()), queries)
    return ((teacher.answers(context, queries) - wanted).square() / variance).mean()


def _velocity_loss(teacher: Teacher, lessons: Lessons, context: CrossAttentionContext, captions: Tensor) -> Tensor:
    levels = _levels(len(captions), captions.device)
    latents = lessons.latents[captions, levels].float()
    wanted = lessons.velocities[captions, levels].float()
    noise = torch.tensor(LEVELS, device=captions.device)[levels] * 1000
    return F.mse_loss(teacher.model(latents, noise, context).float(), wanted) * 10
