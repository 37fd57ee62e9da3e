"""Hearing: samples of a sound in, tags or tokens out, by whichever tagger or adapter the run has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wanbatch.errors import NodeError, RowError
from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.sound.config import OWN_ADAPTER, SoundConfig
from wanbatch.pipeline.sound.phrases import Tag, heard_tags, joined_prompt
from wanbatch.pipeline.sound.taggers import SoundTagger, load_tagger
from wanbatch.pipeline.sound.windows import windows


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What was heard in a sound.

    Attributes:
        prompt: what the model is asked.
        tags: of a tagger, the highest score first; empty where nothing was heard, None of an adapter that heard
            something.
        tokens: of an adapter, float32 [tokens, width]; None of a tagger, and where nothing was heard.
    """

    prompt: str
    tags: tuple[Tag, ...] | None = None
    tokens: np.ndarray | None = None


class Hearing(Protocol):
    """Hears sounds one at a time; the same sound is heard alike whatever comes before and beside it."""

    @property
    def rate(self) -> int:
        """Samples a second that it takes."""

    def hear(self, samples: np.ndarray, weight: float, prompt: str) -> Heard:
        """What is heard in a sound.

        Args:
            samples: float32 [samples], mono, at `rate`.
            weight: how much the sound counts, above 0 and at most 1.
            prompt: of the row; may be empty.

        Raises:
            RowError: if nothing was heard and there is no prompt.
        """


class TaggerHearing:
    """Puts what a tagger hears into the prompt. Scores are multiplied by the weight before they are compared."""

    def __init__(self, tagger: SoundTagger, config: SoundConfig):
        self._tagger, self._config, self._phrases = tagger, config, dict(config.phrases)
        self.rate = tagger.rate

    def hear(self, samples: np.ndarray, weight: float, prompt: str) -> Heard:
        """See `Hearing.hear`."""
        tagger, config = self._tagger, self._config
        parts = windows(samples, self.rate, tagger.seconds, tagger.hop)
        scores = tagger.scores(np.stack([part.samples for part in parts])) * weight
        spans = [(part.start, part.end) for part in parts]
        tags, best = heard_tags(scores, spans, tagger.labels, self._phrases, config.threshold, config.top)
        if not tags and not prompt.strip():
            raise RowError(
                "sound",
                "nothing_heard",
                f"no label reaches the threshold of {config.threshold:g} (the best is {best.label!r} with "
                f"{best.score:.2f}), and the row has no prompt: lower --sound-threshold, or give the row a prompt",
            )
        return Heard(joined_prompt(prompt, tags, config.template), tuple(tags))


class AdapterHearing:
    """Gives the model an adapter's tokens, times the weight: a token of zeros is the same as none.

    An adapter that was trained with noise says of a sound when there is nothing to be heard in it.
    """

    def __init__(self, adapter: SoundAdapter):
        self._adapter = adapter
        self.rate = adapter.encoder.rate

    def hear(self, samples: np.ndarray, weight: float, prompt: str) -> Heard:
        """See `Hearing.hear`."""
        tokens = self._adapter.hear(samples) * np.float32(weight)
        if tokens.any():
            return Heard(prompt, tokens=tokens)
        if not prompt.strip():
            raise RowError(
                "sound",
                "nothing_heard",
                "the adapter hears noise alone, and the row has no prompt: give the row a prompt, or another sound",
            )
        return Heard(prompt, tags=())


def load_hearing(config: SoundConfig, model_folder: str | Path) -> Hearing:
    """Load what hears.

    Args:
        config: what it is.
        model_folder: of the model, on this host.

    Raises:
        UserError: if it cannot be loaded.
    """
    if config.kind != "adapter":
        return TaggerHearing(load_tagger(config), config)
    path = Path(model_folder) / OWN_ADAPTER if config.own else Path(config.location)
    if not path.is_file():
        raise NodeError(f"{path}: the sound adapter is not there on this host: share its folder with every host")
    if config.encoder and not Path(config.encoder).is_dir():
        raise NodeError(f"{config.encoder}: the CLAP of a sound adapter is not there on this host: share its folder")
    return AdapterHearing(SoundAdapter.load(path, config.encoder or None))
