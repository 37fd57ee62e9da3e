"""Trains the judge on real renders only, some of them blurred and noisy; it never sees what a model makes."""

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
        batches: `(images uint8 [N, 3, H, W], attributes [N, 6])`, one a size.
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
        logits = judge(_worsen(images))
        losses = [F.cross_entropy(row, truth) for row, truth in zip(logits, attributes.T, strict=True)]
        loss = torch.stack(losses).sum()
        optimizer.clear()
        loss.backward()
        optimizer.set_rate(budget.rate(rate))
        optimizer.apply()
        average.restart() if step < 200 else average.update()
    average.adopt()
    return judge.eval(), {"steps": budget.step, "seconds": round(budget.elapsed, 1), "batch": batch}


def _worsen(images: Tensor) -> Tensor:
    """Blur and noise of a random strength, the same for the batch, nothing for a third of them."""
    strength = max(0.0, torch.rand(()).item() * 1.5 - 0.5)
    if strength == 0:
        return images
    offsets = torch.arange(-3, 4, device=images.device)
    kernel = (-0.5 * (offsets / (0.3 + strength)) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 7)
    images = F.conv2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), kernel[:, :, None], groups=3)
    images = F.conv2d(images, kernel[..., None], groups=3)
    return images + 0.08 * strength * torch.randn_like(images)
