"""Creativity maps at the size of latents, and the source's own pixels where nothing may change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.core.requests import CreativityMap, Request, SourceImage
from wanbatch.pipeline.core.samples import Region

EDGE = 4  # pixels over which kept pixels pass into made ones, outside of what is kept
EDGE_OF_MADE = 1  # the same where what is kept was made, too, so that the picture has it at the same place


def latent_levels(values: np.ndarray, stride: int) -> np.ndarray:
    """The noise level at which each place of a latent starts: the least of its pixels, so that nothing changes more
    than it may.

    Args:
        values: float32 [height, width], multiples of `stride`.
        stride: Pixels of a place, across and down.

    Returns:
        float32 [height / stride, width / stride].
    """
    height, width = values.shape
    return values.reshape(height // stride, stride, width // stride, stride).min(axis=(1, 3)).astype(np.float32)


def region_of(
    values: np.ndarray, stride: int, latent: Tensor, noise: Tensor, softness: float = 0.0
) -> tuple[Region, float]:
    """What the denoiser needs of a map, and the noise level at which the row starts.

    Args:
        values: As of `latent_levels`.
        stride: As there.
        latent: Of the sources, float32 [channels, height / stride, width / stride].
        noise: As `latent`.
        softness: Of the map.
    """
    levels = latent_levels(values, stride)
    highest = levels.max()
    starting = np.where(levels == highest, np.float32(np.inf), levels)
    return Region(latent, noise, torch.from_numpy(starting).to(latent.device), softness), float(highest)


def as_mapped(pixels: np.ndarray, request: Request, stride: int) -> tuple[np.ndarray, bool]:
    """A picture with its kept pixels, and whether it changed less than its map says.

    Args:
        pixels: uint8 [height, width, 3], as they were made.
        request: What was asked for, with or without a map.
        stride: Pixels of a place of the latent, across and down.
    """
    shown = request.creativity_map
    if shown is None:
        return pixels, False
    lowered = bool(latent_levels(shown.values, stride).max() < shown.values.max())
    return with_kept_pixels(pixels, request.sources, shown) if shown.keep_pixels else pixels, lowered


def with_kept_pixels(pixels: np.ndarray, sources: Sequence[SourceImage], creativity: CreativityMap) -> np.ndarray:
    """A picture with the source's own pixels where the map keeps them, passing into the picture's over a few pixels.

    Args:
        pixels: uint8 [height, width, 3], as they were made.
        sources: Of the picture; of several their weighted mean is kept.
        creativity: The map.
    """
    weights = np.array([source.weight for source in sources])
    blend = sum(source.pixels * (weight / weights.sum()) for source, weight in zip(sources, weights, strict=True))
    share = _share_kept(creativity.kept, EDGE_OF_MADE if creativity.kept_up_to else EDGE)[..., None]
    return np.rint(share * blend + (1 - share) * pixels).astype(np.uint8)


def _share_kept(kept: np.ndarray, edge: int) -> np.ndarray:
    """float64 [height, width]: 1 in what is kept, falling to 0 over so many pixels outside."""
    share, grown = kept.astype(np.float64), kept
    for distance in range(1, edge + 1):
        padded = np.pad(grown, 1)
        grown = padded[1:-1, 1:-1].copy()
        for rows in range(3):
            for columns in range(3):
                grown |= padded[rows : rows + kept.shape[0], columns : columns + kept.shape[1]]
        share = np.maximum(share, grown * (1 - distance / (edge + 1)))
    return share
