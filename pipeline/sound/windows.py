"""Windows of a sound: what a tagger listens to at a time. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A part of a sound.

    Attributes:
        samples: float32 [samples], mono, as many as every window of the same length has.
        start: where it begins, in seconds.
        end: where it ends; the end of the sound at most.
    """

    samples: np.ndarray
    start: float
    end: float


def windows(samples: np.ndarray, rate: int, seconds: float = 10.0, hop: float = 5.0) -> list[Window]:
    """Cut a sound into windows of one length; the last one ends with the sound, and a shorter sound is repeated.

    Args:
        samples: float32 [samples], mono; at least one.
        rate: samples a second.
        seconds: length of a window.
        hop: from the beginning of a window to that of the next.
    """
    length, step = round(seconds * rate), round(hop * rate)
    if len(samples) <= length:
        return [Window(np.resize(samples, length), 0.0, len(samples) / rate)]
    starts = list(range(0, len(samples) - length, step))
    starts.append(len(samples) - length)
    return [Window(samples[at : at + length], at / rate, (at + length) / rate) for at in starts]
