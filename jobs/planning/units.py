"""What is made and how it is grouped: images with everything decided, units of them, and a worker's tasks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from wanbatch.manifests.columns import RESOLVED
from wanbatch.manifests.records import Source

_Resolved: Any = make_dataclass(
    "_Resolved", [(name, Any) for name in RESOLVED], frozen=True, slots=True, kw_only=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(_Resolved):
    """One image to make, with everything decided: an attribute for each of `columns.RESOLVED`, and these.

    With explicit `sigmas`, `steps` is their number, and `shift` and `schedule` are None.

    Attributes:
        row: index among the manifest's rows, blend groups merged.
        source_area: pixels that its size was fitted to by its first source; None if its row gives the size.
        map_source: where the picture of its `creativity_map` is; None: it has none.
        starting_level: the noise level that it starts at; with a map at most that.
        evaluations: how often the model is evaluated for it, guidance and step cache aside.
        digest: of everything that was decided; another one if the row changed.
        prompt_tokens_cut: how many tokens of its prompt the model does not read; None: it reads all.
        negative_prompt_tokens_cut: the same of its negative prompt.
        adapters: those in effect, as its record will have them; None: there are none.
        audio: its sound.
        keeps_audio: whether the sound's file goes to the output.
        audio_source: a mark if its sound is heard; the worker knows the rest.
        audio_tags: a mark if a tagger hears it.
        audio_prompt: as `audio_tags`.
    """

    id: str
    row: int
    variant: int
    manifest_row: int
    sources: tuple[Source, ...]
    source_area: int | None
    starting_level: float
    evaluations: int
    digest: str
    prompt_tokens_cut: int | None = None
    negative_prompt_tokens_cut: int | None = None
    adapters: Any = None
    map_source: Source | None = None
    audio: Source | None = None
    keeps_audio: bool = False
    audio_source: Any = None
    audio_tags: Any = None
    audio_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A unit as a worker gets it.

    Attributes:
        attempt: which attempt at the unit this is, from 1.
        attempt_token: no other attempt at this unit, of any run, has the same.
        passthrough: one row for each image.
        later: which columns of `columns.LATER` the dataset has.
    """

    unit: int
    attempt: int
    attempt_token: str
    images: tuple[Image, ...]
    passthrough: pa.Table
    later: tuple[str, ...] = ()


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
        damaged: how many attempts at it were written and not whole when they were read.
        nodes_lost: how often a node was lost while a worker there was on it.
    """

    number: int
    indices: np.ndarray
    attempt: int = 1
    deaths_alone: int = 0
    isolated: bool = False
    probe: bool = False
    damaged: int = 0
    nodes_lost: int = 0

    @property
    def size(self) -> int:
        """How many images the unit has."""
        return len(self.indices)
