"""What is asked of the model and what comes back. No torch, so that whoever hands requests on needs none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wanbatch.errors import RowError
from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """A source picture of a request, already of the request's size.

    Attributes:
        key: Equal for equal pixels; each distinct picture is encoded once.
        pixels: uint8 [height, width, 3].
        weight: Of the picture in a blend; only the weights' ratios matter.
    """

    key: str
    pixels: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class CreativityMap:
    """How much each place of a picture may change.

    Attributes:
        values: float32 [height, width] in [0, 1]: the noise level at which denoising starts there; 0 keeps the
            source.
        keep_pixels: Whether the source's own pixels come back where the value is at most `kept_up_to`, with a soft
            edge of a few pixels outside.
        softness: Noise levels above a place's own over which it is released; 0 releases it at its own.
        kept_up_to: See `keep_pixels`. Above 0 it is taken with one step of a grey map more, which has 255.
    """

    values: np.ndarray
    keep_pixels: bool = False
    softness: float = 0.0
    kept_up_to: float = 0.0

    @property
    def kept(self) -> np.ndarray:
        """Where the source's own pixels come back, bool [height, width]."""
        if not self.keep_pixels:
            return np.zeros(self.values.shape, dtype=bool)
        return self.values <= (self.kept_up_to + 1 / 255 if self.kept_up_to else 0.0)


@dataclass(frozen=True, slots=True)
class ComingRow:
    """What is known beforehand of a request that comes later, for those who get its adapters ready.

    Attributes:
        id: Of the request.
        adapters: As of the request.
        level: The noise level at its start, or more: of two experts (A14B), a row never enters the first if that is
            below their boundary. 0: nothing is evaluated for it.
    """

    id: str
    adapters: Sequence[tuple[str, float]]
    level: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One picture to make.

    Attributes:
        id: Names the picture.
        prompt: What it should show.
        negative_prompt: What guidance leads away from.
        sources: Pictures to start from, blended; empty to start from noise.
        creativity: The noise level at the start, from 0 to 1; with a map its largest value.
        seed: Of the noise.
        width: In pixels.
        height: In pixels.
        steps: Of the schedule.
        guidance: Classifier-free guidance scale; 1 or less runs the prompt alone.
        shift: Of the schedule.
        sampler: Name of the solver.
        schedule: Name of the schedule.
        sigmas: Explicit noise levels, the final 0 left out. With them, steps, shift and schedule play no part.
        guidance_2: The second expert's guidance scale, at low noise levels; None for `guidance`. What runs the prompt
            alone is decided by `guidance`.
        creativity_steps: `keep` (as None) or `respace`; see `sampling.schedules.levels`.
        creativity_map: Where the picture may change less; None: alike everywhere. It needs a source.
        adapters: Names and weights of those that change the model for this picture.
        sound_tokens: What an adapter heard, float32 [tokens, text width]; they stand after the prompt's own tokens.
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
    guidance_2: float | None = None
    creativity_steps: str | None = None
    creativity_map: CreativityMap | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    sound_tokens: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Seconds:
    """A picture's own share of the time of each stage that made it."""

    text: float
    encode: float
    denoise: float
    decode: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A picture that was made.

    Attributes:
        request: What was asked for.
        pixels: uint8 [height, width, 3].
        seconds: The picture's own share of the time.
        work: Evaluations of the model, and of its blocks.
        peak_memory_bytes: Of the device since the model was loaded, or of this process on a CPU.
        slot_steps: The picture's share of the slots of its evaluations, empty ones included.
        backends: What ran each stage, by name; None: what the pipeline says of itself.
        moves: How many parts of the model came to the device since the last picture.
        move_seconds: That they took.
        start_lowered: Whether the part of its map that may change most holds no whole place of the latent, so that it
            changed less.
    """

    request: Request
    pixels: np.ndarray
    seconds: Seconds
    work: EvaluationCounts
    peak_memory_bytes: int
    slot_steps: float = 0.0
    backends: Mapping[str, str] | None = None
    start_lowered: bool = False
    moves: int = 0
    move_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """A request that could not be made, and why."""

    request: Request
    error: RowError


def fitted_part(columns: int, rows: int, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of an image that `fit` keeps: left, top, right and bottom, in its own pixels, none outside of it."""
    scale = max(width / columns, height / rows)
    across, down = width / scale, height / scale
    left, top = (columns - across) / 2, (rows - down) / 2
    # Rounding may lead over the edge by a trifle, which Pillow refuses.
    return max(left, 0.0), max(top, 0.0), min(left + across, columns), min(top + down, rows)


def fit(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale an image to cover a size and cut what is over, the same on both sides.

    Args:
        pixels: uint8 [rows, columns, 3].
        width: Of the result.
        height: Of the result.

    Returns:
        uint8 [height, width, 3]; an image of that size as it is.
    """
    rows, columns = pixels.shape[:2]
    if (columns, rows) == (width, height):
        return pixels
    box = fitted_part(columns, rows, width, height)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box=box))
