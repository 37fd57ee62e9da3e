"""Trains the small model's autoencoder, in its single-frame form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.evaluation.metrics import psnr_of_error
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.training.loop import Average, Budget, Checkpoints, Optimizer, RecentLosses
from wanbatch.pipeline.training.toy.pictures import Bank, draw_pictures


def train(
    vae: FrameVAE,
    bank: Bank,
    budget: Budget,
    *,
    batch: int,
    rate: float = 1e-3,
    divergence: float = 1e-5,
    report: Callable[[str], None] = print,
    state: Path | None = None,
) -> dict[str, float]:
    """Train an autoencoder in place, on a GPU in bf16 and compiled; in the end it holds the averaged weights.

    Args:
        vae: What is trained.
        bank: Pictures, on the training device.
        budget: How long.
        batch: Pictures in a step.
        rate: The highest learning rate.
        divergence: Weight of the KL divergence to a standard normal, mean over latent values.
        report: Called with a line of text now and then.
        state: File from which a training that did not end is gone on with, and that keeps what it needs.

    Returns:
        What the training did.
    """
    device = bank[0].device
    vae.to(device).train()
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizer(vae.parameters(), device)
    average = Average(vae.parameters(), 0.999)
    learn = _learner(vae, bank, batch, optimizer, divergence)
    learn()  # compiles; the rate is still zero
    budget.restart()
    checkpoints = Checkpoints(state, optimizer, average, budget)
    checkpoints.go_on()
    errors = RecentLosses()
    for step in budget:
        optimizer.set_rate(budget.rate(rate))
        error = learn()
        average.restart() if step < 500 else average.update()
        errors.note(step, error)
        if step % 1000 == 0:
            report(f"vae: step {step}, {budget.elapsed:.0f} s, PSNR {psnr_of_error(errors.mean(), 2):.2f} dB")
        checkpoints.save_if_due()
    checkpoints.save()
    average.adopt()
    vae.eval()
    return budget.spent() | {"batch": batch}


def _learner(vae: FrameVAE, bank: Bank, batch: int, optimizer: Optimizer, divergence: float) -> Callable[[], Tensor]:
    """A function that makes one step on random pictures and returns their mean squared error."""
    device = bank[0].device
    fast = device.type == "cuda"
    loss_of = torch.compile(_loss, dynamic=False) if fast else _loss

    def learn() -> Tensor:
        images = draw_pictures(bank, batch)[0].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            loss, error = loss_of(vae, images, divergence)
        optimizer.clear()
        loss.backward()
        optimizer.apply()
        return error

    return learn


def _loss(vae: FrameVAE, images: Tensor, divergence: float) -> tuple[Tensor, Tensor]:
    """Loss and mean squared error: absolute and squared differences, edges at three scales, divergence."""
    mean, logvar = vae.moments(images)
    latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    difference = vae.decode_raw(latents).float() - images
    error = difference.square().mean()
    loss = difference.abs().mean() + error
    scaled = difference
    for _ in range(3):
        loss = loss + 0.5 * (_edges(scaled))
        scaled = F.avg_pool2d(scaled, 2)
    mean, logvar = mean.float(), logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return loss + divergence * kl, error.detach()


def _edges(difference: Tensor) -> Tensor:
    """How far neighbouring pixels differ otherwise than they should."""
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


@torch.no_grad()
def statistics(vae: FrameVAE, bank: Bank, count: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each latent channel, fp32 `[z]`, over `count` pictures."""
    images = bank[0][:count]
    latents = torch.cat([vae.moments(part.float() / 127.5 - 1)[0].float() for part in images.split(256)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))
