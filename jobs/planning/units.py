"""What is made and how it is grouped: images with everything decided, units of them, and a worker's tasks. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from wanbatch.manifests.records import Source


@dataclass(frozen=True, slots=True)
class Image:
    """One image to make, with everything decided.

    Attributes:
        source_area: pixels that its size was fitted to by its first source; None if the row or the run gives the
            size.
        row: index among the manifest's rows.
        digest: of everything that was decided; another one if the row changed.
        sigmas: explicit noise levels; steps is then their number, and shift and schedule are None.
    """

    id: str
    row: int
    variant: int
    manifest_row: int
    prompt: str
    negative_prompt: str
    sources: tuple[Source, ...]
    creativity: float
    seed: int
    width: int
    height: int
    source_area: int | None
    steps: int
    guidance: float
    shift: float | None
    sampler: str
    schedule: str | None
    sigmas: tuple[float, ...] | None
    digest: str


@dataclass(frozen=True, slots=True)
class Task:
    """A unit as a worker gets it.

    Attributes:
        attempt: which attempt at the unit this is, from 1.
        attempt_token: no other attempt at this unit, of any run, has the same.
        passthrough: one row for each image.
    """

    unit: int
    attempt: int
    attempt_token: str
    images: tuple[Image, ...]
    passthrough: pa.Table


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Images that are made, written and committed together, as the driver keeps them.

    Attributes:
        indices: where its images stand in the plan.
        attempt: which attempt at the unit comes next, from 1.
        isolated: a worker was lost while it held this unit, so it is only given to a worker that holds nothing else.
        deaths_alone: how often a worker was lost while it held this unit and nothing else.
        probe: its image is made already and is made again only to see whether a worker works; the result is thrown
            away.
    """

    number: int
    indices: np.ndarray
    attempt: int = 1
    deaths_alone: int = 0
    isolated: bool = False
    probe: bool = False

    @property
    def size(self) -> int:
        """How many images the unit has."""
        return len(self.indices)
