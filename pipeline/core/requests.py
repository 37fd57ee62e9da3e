"""What is asked of the model and what comes back. No torch, so that whoever hands requests on needs none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from wanbatch.errors import RowError


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """A source picture of a request, already of the request's size.

    pixels: uint8 [height, width, 3]. key: equal for equal pixels; each distinct picture is encoded once.
    """

    key: str
    pixels: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One picture to make.

    creativity: the noise level at the start. guidance: 1 or less runs the prompt alone.
    sigmas: explicit noise levels, the final 0 left out. With them, steps, shift and schedule play no part.
    creativity_steps: `keep` (as None) or `respace`; see `sampling.schedules.levels`.
    """

    id: str
    prompt: str
    negative_prompt: str
    sources: tuple[SourceImage, ...]
    creativity: float
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    shift: float | None
    sampler: str
    schedule: str | None = "linear"
    sigmas: tuple[float, ...] | None = None
    creativity_steps: str | None = None


@dataclass(frozen=True, slots=True)
class Seconds:
    """A picture's own share of the time of each stage that made it."""

    text: float
    encode: float
    denoise: float
    decode: float


@dataclass(frozen=True, slots=True)
class EvaluationCounts:
    """How many of a picture's evaluations of the model, and of their blocks, ran and how many were left out.

    steps_full: evaluations of which every block ran, with and (under guidance) without the prompt. steps_cached:
    the others. blocks_full, blocks_cached: blocks that ran and that were left out, over all steps and branches.
    """

    steps_full: int = 0
    steps_cached: int = 0
    blocks_full: int = 0
    blocks_cached: int = 0

    def __add__(self, other: EvaluationCounts) -> EvaluationCounts:
        return EvaluationCounts(
            self.steps_full + other.steps_full,
            self.steps_cached + other.steps_cached,
            self.blocks_full + other.blocks_full,
            self.blocks_cached + other.blocks_cached,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A picture. pixels: uint8 [height, width, 3]. work: evaluations of the model."""

    request: Request
    pixels: np.ndarray
    seconds: Seconds
    work: EvaluationCounts
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """A request that could not be made, and why."""

    request: Request
    error: RowError


def fit(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale an image to cover a size and cut what is over, the same on both sides.

    pixels: uint8 [rows, columns, 3]. Returns uint8 [height, width, 3]. An image of that size is returned as it is.
    """
    rows, columns = pixels.shape[:2]
    if (columns, rows) == (width, height):
        return pixels
    scale = max(width / columns, height / rows)
    across, down = width / scale, height / scale
    left, top = (columns - across) / 2, (rows - down) / 2
    image = Image.fromarray(pixels)
    box = (left, top, left + across, top + down)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
