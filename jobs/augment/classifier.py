"""What augmentation is measured with: learners of classes, and a small network that is trained from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.core.requests import fit

SIDE = 40
"""Pixels of the pictures that the small network sees."""

BATCH = 32

Labelled = Iterable[tuple[np.ndarray, int]]
"""Pictures, uint8 [rows, columns, 3] each, with the numbers of their classes."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures as a learner sees them, with their classes.

    Attributes:
        inputs: [N, ...], what is learnt from.
        labels: int64 [N].
        disturbed: [N, copies, ...], classic augmentation made beforehand; None: it is made as pictures are drawn.
    """

    inputs: np.ndarray
    labels: np.ndarray
    disturbed: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, wanted: np.ndarray) -> Examples:
        """Some of the pictures. wanted: bool [N]."""
        disturbed = None if self.disturbed is None else self.disturbed[wanted]
        return Examples(self.inputs[wanted], self.labels[wanted], disturbed)

    def with_more(self, other: Examples) -> Examples:
        """These pictures and those of another set."""
        disturbed = None
        if self.disturbed is not None and other.disturbed is not None:
            disturbed = np.concatenate([self.disturbed, other.disturbed])
        inputs = np.concatenate([self.inputs, other.inputs])
        return Examples(inputs, np.concatenate([self.labels, other.labels]), disturbed)


class Learner(Protocol):
    """Learns classes from pictures."""

    def examples(self, pictures: Labelled, trained_on: bool) -> Examples:
        """Pictures as it sees them; none of them is kept otherwise.

        Args:
            pictures: at least one.
            trained_on: whether it is to learn from them; else it is tested on them.
        """

    def train_and_test(
        self, train: Examples, test: Examples, classes: int, steps: int, seed: int, classic: bool
    ) -> np.ndarray:
        """Learn, and say which classes it takes the test pictures for.

        Args:
            train, test: pictures, as `examples` has given them.
            classes: how many there are.
            steps: of the optimiser, each with `BATCH` pictures.
            seed: of the weights, the order and what is drawn for classic augmentation.
            classic: crop, mirror and recolour pictures at random.
        Returns:
            int64 [len(test)], the classes that it finds most likely.
        """


class SmallNetwork:
    """A small convolutional network, trained from scratch each time. device: where it is trained."""

    def __init__(self, device: str = "cpu"):
        self._device = device

    def examples(self, pictures: Labelled, trained_on: bool) -> Examples:
        """See `Learner.examples`."""
        pixels, labels = zip(*((fit(one, SIDE, SIDE), label) for one, label in pictures), strict=True)
        return Examples(np.stack(pixels), np.array(labels))

    def train_and_test(
        self, train: Examples, test: Examples, classes: int, steps: int, seed: int, classic: bool
    ) -> np.ndarray:
        """See `Learner.train_and_test`."""
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model, pixels = network(classes), as_inputs(train.inputs)

        def drawn(chosen: Tensor) -> Tensor:
            return disturb(pixels[chosen], generator) if classic else pixels[chosen]

        train_on(model, drawn, torch.from_numpy(train.labels), steps, generator, self._device)
        return likeliest(model, as_inputs(test.inputs), self._device)


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


def train_on(
    model: nn.Module,
    drawn: Callable[[Tensor], Tensor],
    labels: Tensor,
    steps: int,
    generator: torch.Generator,
    device: str = "cpu",
    rate: float = 4e-3,
) -> None:
    """Train a model in place.

    Args:
        model: from inputs to logits.
        drawn: the inputs of the pictures with these numbers, int64 [BATCH].
        labels: of all pictures, int64 [N].
        steps: of the optimiser.
        generator: of the order; each picture comes once before any comes again.
        device: where it is trained.
        rate: of learning, the highest of one cycle.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
        chosen, order = order[:BATCH], order[BATCH:]
        loss = F.cross_entropy(model(drawn(chosen).to(device)), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def likeliest(model: nn.Module, inputs: Tensor, device: str = "cpu") -> np.ndarray:
    """The classes that a model finds most likely, int64 [N]. inputs: [N, ...]."""
    model.eval()
    return torch.cat([model(part.to(device)).argmax(dim=1).cpu() for part in inputs.split(256)]).numpy()


def as_inputs(pixels: np.ndarray) -> Tensor:
    """Pictures as networks take them: float32 [N, 3, rows, columns], -1 to 1. pixels: uint8 [N, rows, columns, 3]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def disturb(batch: Tensor, generator: torch.Generator) -> Tensor:
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
