"""A small classifier, trained from scratch: what augmentation is measured with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 40
"""Pixels of the pictures that it sees."""

BATCH = 32


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures with their classes. pixels: uint8 [N, SIDE, SIDE, 3]. labels: int64 [N]."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def network(classes: int) -> nn.Module:
    """Three convolutions with batch normalisation, a mean over the picture, and a linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for width in (16, 32, 64):
        layers += [
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def train_and_test(
    train: Examples, test: Examples, classes: int, steps: int, seed: int, classic: bool, device: str = "cpu"
) -> np.ndarray:
    """Train a classifier and say which classes it takes the test pictures for.

    Args:
        train, test: pictures.
        classes: how many there are.
        steps: of the optimiser, each with `BATCH` pictures.
        seed: of the weights, the order and what is drawn for classic augmentation.
        classic: crop, mirror and recolour each picture at random, each time anew.
        device: where it is trained.
    Returns:
        int64 [len(test)], the classes that it finds most likely.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = network(classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    pixels, labels = _inputs(train.pixels), torch.from_numpy(train.labels)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(train), generator=generator)])
        chosen, order = order[:BATCH], order[BATCH:]
        batch = pixels[chosen]
        if classic:
            batch = _disturbed(batch, generator)
        loss = F.cross_entropy(model(batch.to(device)), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        found = [model(part.to(device)).argmax(dim=1).cpu() for part in _inputs(test.pixels).split(256)]
    return torch.cat(found).numpy()


def _inputs(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def _disturbed(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture mirrored or not, scaled and moved by up to a fifth, in other brightness, contrast and colours."""
    count = len(batch)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    scale = draw(0.8, 1.2)
    mirrored = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    rows = torch.zeros(count, 2, 3)
    rows[:, 0, 0], rows[:, 1, 1] = scale * mirrored, scale
    rows[:, 0, 2], rows[:, 1, 2] = draw(-0.2, 0.2), draw(-0.2, 0.2)
    grid = F.affine_grid(rows, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = draw(0.7, 1.3), draw(-0.2, 0.2)
    colours = torch.rand(count, 3, generator=generator) * 0.4 + 0.8
    changed = moved * contrast[:, None, None, None] + brightness[:, None, None, None]
    return (changed * colours[:, :, None, None]).clamp(-1, 1)
