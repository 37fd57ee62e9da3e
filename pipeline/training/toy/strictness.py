"""How sure the judge has to be of an object: as sure as real pictures allow.

A network that only names the likeliest object names one in any mush. The rule: the judge's certainty is the highest
of `CERTAINTIES` at which it still reads all objects in `OF_RENDERS` of fresh real renders and in `OF_RECONSTRUCTIONS`
of renders that went through the autoencoder, of every size. Pictures of the denoiser have no part in it; how many of
its half-finished ones are read with and without the rule is noted beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wanbatch.pipeline.evaluation.judge import OBJECTS, Judge

CERTAINTIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99995, 0.99999)
OF_RENDERS = 0.99
OF_RECONSTRUCTIONS = 0.98


@torch.no_grad()
def smallest_certainty(judge: Judge, images: Tensor, expected: Tensor) -> Tensor:
    """How sure the judge is of the object that it is least sure of, 0 where it misreads one: fp32 `[B]`.

    Args:
        judge: with any certainty.
        images: fp32 `[B, 3, H, W]` in [-1, 1].
        expected: int64 `[B, 9]`.
    """
    lowest = []
    for part, truth in zip(images.float().split(512), expected.split(512), strict=True):
        logits = judge(part)
        best = [logits[index].softmax(1).max(1) for index in OBJECTS]
        sure = [
            one.values.where(one.indices == truth[:, index], 0.0) for index, one in zip(OBJECTS, best, strict=True)
        ]
        lowest.append(torch.stack(sure).amin(0))
    return torch.cat(lowest)


def choose(renders: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> float:
    """The certainty by the rule; 0 if none keeps it.

    Args:
        renders: what `smallest_certainty` says of real renders, one tensor a size.
        reconstructions: the same of such that went through the autoencoder.
    """
    good = [
        certainty
        for certainty in CERTAINTIES
        if all(share_read(one, certainty) >= OF_RENDERS for one in renders)
        and all(share_read(one, certainty) >= OF_RECONSTRUCTIONS for one in reconstructions)
    ]
    return max(good, default=0.0)


def share_read(certainties: Tensor, needed: float) -> float:
    """The part of pictures in which all objects are read right where so much certainty is needed."""
    return ((certainties >= needed) & (certainties > 0)).float().mean().item()
