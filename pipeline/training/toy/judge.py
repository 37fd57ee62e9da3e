"""Trains the judge on sharp real renders only; it never sees what a model makes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.training.loop import Average, Budget, Optimizer
from wanbatch.pipeline.training.toy.pictures import draw_pictures


def train(
    batches: list[tuple[Tensor, Tensor]], budget: Budget, batch: int = 256, rate: float = 2e-3
) -> tuple[Judge, dict[str, float]]:
    """Train a judge.

    Args:
        batches: `(images uint8 [N, 3, H, W], attributes [N, 9])`, one a size.
        budget: How long.
        batch: Pictures in a step.
        rate: The highest learning rate.

    Returns:
        The judge with averaged weights, and what the training did.
    """
    device = batches[0][0].device
    judge = Judge().to(device)
    optimizer = Optimizer(judge.parameters(), device, decay=1e-4)
    average = Average(judge.parameters(), 0.995)
    for step in budget:
        images, attributes = draw_pictures(batches[step % len(batches)], batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = [row.float() for row in judge(_disturb(images))]
        losses = [F.cross_entropy(row, truth) for row, truth in zip(logits, attributes.T, strict=True)]
        loss = torch.stack(losses).sum()
        optimizer.clear()
        loss.backward()
        optimizer.set_rate(budget.rate(rate))
        optimizer.apply()
        average.restart() if step < 200 else average.update()
    average.adopt()
    return judge.eval(), {"steps": budget.step, "seconds": round(budget.elapsed, 1), "batch": batch}


def _disturb(images: Tensor) -> Tensor:
    """A little noise and another brightness. Never blur: a judge that was trained to see past it reads mush."""
    strength = torch.rand(len(images), 2, 1, 1, device=images.device)
    return images * (1 + 0.1 * (strength[:, 1:] - 0.5)) + 0.03 * strength[:, :1] * torch.randn_like(images)
