"""From planned images to requests of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from wanbatch.errors import RowError
from wanbatch.jobs.planning.adapters import own_adapters
from wanbatch.jobs.planning.units import Image
from wanbatch.jobs.worker.sounds import NO_SOUND, HeardSound
from wanbatch.manifests.columns import RESOLVED
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import ComingRow, CreativityMap, Request, SourceImage, fit
from wanbatch.pipeline.loading.registry import ModelInfo

ASKED = tuple(field.name for field in fields(Request) if field.name in RESOLVED and field.name != "creativity_map")
"""Settings of an image that the model is asked with."""


def request_for(
    image: Image,
    sources: tuple[SourceImage, ...],
    creativity_map: CreativityMap | None = None,
    sound: HeardSound = NO_SOUND,
) -> Request:
    """What a planned image asks of the model.

    Args:
        image: as it was planned.
        sources: its sources at its size.
        creativity_map: its map at its size.
        sound: what was heard in its sound.
    """
    asked = {name: getattr(image, name) for name in ASKED} | {"creativity": image.starting_level}
    if sound.prompt is not None:
        asked["prompt"] = sound.prompt
    return Request(
        id=image.id,
        sources=sources,
        **asked,
        creativity_map=creativity_map,
        adapters=adapters_of(image),
        sound_tokens=sound.tokens,
    )


def adapters_of(image: Image) -> tuple[tuple[str, float], ...]:
    """Names and weights of the adapters that a planned image has of its own."""
    return own_adapters(image.style, image.loras)


def coming_row(image: Image) -> ComingRow:
    """What the model is told of a planned image before it is asked for it."""
    level = image.starting_level if not image.sigmas else min(image.starting_level, image.sigmas[0])
    return ComingRow(image.id, adapters_of(image), level)


def warm_up_request(image: Image) -> Request:
    """What a planned image asks of the model, with grey pictures instead of its sources."""
    grey = np.full((image.height, image.width, 3), 128, dtype=np.uint8)
    return request_for(image, tuple(SourceImage("grey", grey, source.weight) for source in image.sources))


@dataclass(frozen=True, slots=True)
class FittedSource:
    """A source at the size of an image.

    Attributes:
        picture: what the model gets.
        sha256: of the source's file.
        notes: what the user should know of the source, of `notes.WORDS`.
        term: how its file says that it came to be, of `digital_source`.
        size: width and height of the source itself.
    """

    picture: SourceImage
    sha256: str
    notes: frozenset[str]
    term: str | None
    size: tuple[int, int]


class FittedSources:
    """The sources of one task's images, each distinct one read and fitted once."""

    def __init__(self, loader: SourceLoader, model: ModelInfo):
        self._loader, self._model = loader, model
        self._known: dict[tuple, FittedSource] = {}

    def of(self, image: Image) -> list[FittedSource]:
        """The sources of an image at its size. Raises RowError."""
        return [self._fitted(image, index) for index in range(len(image.sources))]

    def _fitted(self, image: Image, index: int) -> FittedSource:
        source = image.sources[index]
        area = image.source_area if index == 0 else None
        key = (source.key, image.width, image.height, area)
        if key not in self._known:
            loaded = self._loader.load(source)
            height, width = loaded.pixels.shape[:2]
            if area is not None and self._model.fitting_size(width, height, area) != (image.width, image.height):
                message = f"{source.name} has another shape than when the run was planned: retry the row"
                raise RowError("source", "changed_image", message)
            pixels = fit(loaded.pixels, image.width, image.height)
            picture = SourceImage(f"{loaded.sha256}-{image.width}x{image.height}", pixels)
            self._known[key] = FittedSource(picture, loaded.sha256, loaded.notes, loaded.term, (width, height))
        known = self._known[key]
        return replace(known, picture=replace(known.picture, weight=source.weight))
