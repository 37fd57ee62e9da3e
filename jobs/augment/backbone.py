"""A model of the user as a backbone: a linear layer is trained on its embeddings, and the model itself is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from wanbatch.jobs.augment.classifier import Examples, Labelled, as_inputs, disturb, likeliest, train_on
from wanbatch.jobs.augment.embeddings import FLAG, Embedder
from wanbatch.jobs.augment.model_answers import ModelAnswers
from wanbatch.jobs.augment.readers import BATCH
from wanbatch.pipeline.core.requests import fit

SIDE = 224
"""Pixels of the pictures that the model is given; it scales them as it needs."""

COPIES = 4
"""Of each picture that is trained on: cropped, mirrored and recoloured, for classic augmentation."""


RATE = 2e-2
"""Of learning."""


class Backbone:
    """A linear layer on the embeddings of a model.

    Each picture is looked at once, and so are `COPIES` disturbed ones of each that is trained on, of which classic
    augmentation draws; with the picture itself.
    """

    def __init__(self, model: Embedder):
        self._answers = ModelAnswers(FLAG, model.embeddings)

    def examples(self, pictures: Labelled, trained_on: bool) -> Examples:
        """See `Learner.examples`. Raises UserError if the model gives no numbers."""
        generator = torch.Generator().manual_seed(0)
        inputs, copies = [], []
        labels: list[int] = []
        for batch in _batches(pictures):
            pixels = np.stack([fit(one, SIDE, SIDE) for one, _ in batch])
            names = [f"number {len(labels) + place}" for place in range(1, len(batch) + 1)]
            inputs.append(self._seen(pixels, names))
            labels += [label for _, label in batch]
            if trained_on:
                disturbed = (disturb(as_inputs(pixels), generator) for _ in range(COPIES))
                copies.append(np.stack([self._seen(_as_pixels(one), names) for one in disturbed], axis=1))
        return Examples(np.concatenate(inputs), np.array(labels), np.concatenate(copies) if copies else None)

    def train_and_test(
        self, train: Examples, test: Examples, classes: int, steps: int, seed: int, classic: bool
    ) -> np.ndarray:
        """See `Learner.train_and_test`."""
        generator = torch.Generator().manual_seed(seed)
        assert train.disturbed is not None
        known = np.concatenate([train.inputs[:, None], train.disturbed], axis=1)
        middle = train.inputs.mean(axis=0)
        scale = max(float(np.sqrt(np.square(train.inputs - middle).mean())), 1e-6)
        views, shown = (torch.from_numpy((one - middle) / scale) for one in (known, test.inputs))
        model = nn.Linear(shown.shape[1], classes)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)

        def drawn(chosen: Tensor) -> Tensor:
            if not classic:
                return views[chosen, 0]
            return views[chosen, torch.randint(views.shape[1], (len(chosen),), generator=generator)]

        train_on(model, drawn, torch.from_numpy(train.labels), steps, generator, rate=RATE)
        return likeliest(model, shown)

    def _seen(self, pixels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        return self._answers.of(list(pixels), names).astype(np.float32)


def _batches(pictures: Labelled) -> Iterator[list[tuple[np.ndarray, int]]]:
    left = iter(pictures)
    while batch := list(islice(left, BATCH)):
        yield batch


def _as_pixels(inputs: Tensor) -> np.ndarray:
    """The reverse of `as_inputs`."""
    return ((inputs + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
