"""One step of a solver, for many rows at once: a weighted sum of what each row's state holds."""

from __future__ import annotations

import torch
from torch import Tensor

from wanbatch.pipeline.batching.regions import Regions, StepLevels


def advance(
    state: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    correct: Tensor,
    predict: Tensor,
    noise: Tensor | None = None,
    regions: tuple[Regions, StepLevels] | None = None,
) -> Tensor:
    """The state of every row after one step. Nothing mixes rows, so a row's values do not depend on the others.

    Args:
        state: [rows, STATES, channels, height, width]: sample, sample before, predictions of x0 newest first.
        velocity: [rows, channels, height, width], the model's (guided) output for the samples.
        sigma: [rows], noise levels.
        correct: [rows, TERMS], see `Solution`.
        predict: As `correct`.
        noise: [rows, channels, height, width], added to the next samples as it is; None for none.
        regions: Where places start later, and the step's levels; None: all places start with their row.

    Returns:
        The next state, of the same shape.
    """
    sample = state[:, :1]
    denoised = sample - sigma[:, None, None, None, None] * velocity[:, None]
    corrected = _weighted(torch.cat([state[:, :2], denoised, state[:, 2:]], dim=1), correct)
    before, history = state[:, 1:2], state[:, 2:]
    if regions is not None:
        corrected, history, before = regions[0].started(corrected, denoised, history, before, regions[1])
    following = _weighted(torch.cat([corrected, denoised, history, before], dim=1), predict)
    if noise is not None:
        following = following + noise[:, None]
    if regions is not None:
        following = regions[0].held(following, regions[1])
    return torch.cat([following, corrected, denoised, history[:, :-1]], dim=1)


def _weighted(terms: Tensor, factors: Tensor) -> Tensor:
    return (terms * factors[:, :, None, None, None].to(terms.dtype)).sum(dim=1, keepdim=True)
