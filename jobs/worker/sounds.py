"""Sounds of one task's images: read, heard, and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wanbatch.errors import RowError
from wanbatch.jobs.planning.units import Image
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.sounds import LoadedSound, load_sound

if TYPE_CHECKING:
    from wanbatch.pipeline.sound.hearing import Hearing  # needs torch

UNHEARD_RATE = 48_000  # of a sound that is only kept: it is decoded all the same, to see whether it is one


@dataclass(frozen=True, slots=True, eq=False)
class HeardSound:
    """What a row's sound comes to.

    Attributes:
        prompt: what the model is asked; None: the row's own prompt.
        tokens: what it is given besides, float32 [tokens, width]; None: nothing.
        record: the columns of the dataset about the sound.
    """

    prompt: str | None
    tokens: np.ndarray | None
    record: Mapping[str, Any]


NO_SOUND = HeardSound(None, None, {})


class HeardSounds:
    """The sounds of one task's images, each distinct one read once."""

    def __init__(self, loader: SourceLoader, hearing: Hearing | None):
        self._loader, self._hearing = loader, hearing
        self._loaded: dict[tuple, LoadedSound] = {}

    def of(self, image: Image) -> HeardSound:
        """The sound of an image. Raises RowError."""
        heard_of = image.audio_source is not None
        if image.audio is None or not (heard_of or image.keeps_audio):
            return NO_SOUND
        sound = self._sound(image)
        record: dict[str, Any] = {"audio_source": None, "audio_tags": None, "audio_prompt": None}
        if image.keeps_audio:
            record["audio"] = {"bytes": sound.data, "path": (image.audio.path or "").rsplit("/", 1)[-1] or None}
        if not heard_of:
            return HeardSound(None, None, record)
        assert self._hearing is not None
        weight = 1.0 if image.audio_weight is None else image.audio_weight
        try:
            heard = self._hearing.hear(sound.samples, weight, image.prompt)
        except RowError as error:
            raise RowError(error.stage, error.kind, f"{image.audio.name}: {error.message}") from error
        record["audio_source"] = {"path": image.audio.path, "sha256": sound.sha256, "seconds": sound.seconds}
        if heard.tags is not None:
            record |= {"audio_tags": [asdict(tag) for tag in heard.tags], "audio_prompt": heard.prompt}
        return HeardSound(heard.prompt, heard.tokens, record)

    def _sound(self, image: Image) -> LoadedSound:
        assert image.audio is not None
        if image.audio.key not in self._loaded:
            rate = UNHEARD_RATE if self._hearing is None else self._hearing.rate
            self._loaded[image.audio.key] = load_sound(self._loader, image.audio, rate)
        return self._loaded[image.audio.key]
