"""Taggers: what is heard in windows of a sound, as scores of labels. CLAP and AST run with transformers, on the CPU.

Each window is worked out alone, so that what is heard in a sound depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.sound.config import AST, BIRDNET, CLAP, SoundConfig

ASKED = "This is a sound of {label}."
"""What CLAP is asked for each label."""


class SoundTagger(Protocol):
    """Says how likely each of its labels is in windows of a sound."""

    @property
    def rate(self) -> int:
        """Samples a second that it takes."""

    @property
    def seconds(self) -> float:
        """Length of a window."""

    @property
    def hop(self) -> float:
        """Seconds from the beginning of a window to that of the next."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of what it hears."""

    def scores(self, windows: np.ndarray) -> np.ndarray:
        """How likely each label is in each window.

        Args:
            windows: float32 [windows, samples], mono.

        Returns:
            float32 [windows, labels], from 0 to 1.
        """


class ClapTagger:
    """CLAP, asked which of some labels a sound is of: the scores of a window add up to 1."""

    seconds, hop = 10.0, 5.0

    def __init__(self, folder: str | Path, labels: Sequence[str]):
        """
        Args:
            folder: of the model, with its feature extractor and tokenizer.
            labels: what it is asked for.
        """
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        self.labels = list(labels)
        self._model: Any = ClapModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self._extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.rate = int(self._extractor.sampling_rate)
        asked = tokenizer([ASKED.format(label=label) for label in labels], padding=True, return_tensors="pt")
        with torch.inference_mode():
            text = self._model.get_text_features(asked["input_ids"], asked["attention_mask"])
        self._text = _pooled(text)

    @torch.inference_mode()
    def scores(self, windows: np.ndarray) -> np.ndarray:
        """See `SoundTagger.scores`."""
        return np.stack([self._of_window(window) for window in windows])

    def _of_window(self, window: np.ndarray) -> np.ndarray:
        features = clap_features(self._extractor, window, self.rate)
        audio = _pooled(self._model.get_audio_features(**features))
        logits = audio @ self._text.T * self._model.logit_scale_a.exp()
        return logits.softmax(dim=1)[0].numpy()


class AstTagger:
    """AST, which gives each label a score of its own."""

    seconds, hop = 10.0, 5.0

    def __init__(self, folder: str | Path):
        """folder: of the model, with its feature extractor."""
        from transformers import ASTFeatureExtractor, ASTForAudioClassification

        self._model: Any = ASTForAudioClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        ).eval()
        self._extractor = ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self.rate = int(self._extractor.sampling_rate)
        names = self._model.config.id2label
        self.labels = [str(names[index]) for index in range(len(names))]

    @torch.inference_mode()
    def scores(self, windows: np.ndarray) -> np.ndarray:
        """See `SoundTagger.scores`."""
        return np.stack([self._of_window(window) for window in windows])

    def _of_window(self, window: np.ndarray) -> np.ndarray:
        features = self._extractor(window, sampling_rate=self.rate, return_tensors="pt")
        return self._model(**features).logits.sigmoid()[0].numpy()


def clap_features(extractor: Any, window: np.ndarray, rate: int) -> dict[str, torch.Tensor]:
    """What CLAP's audio model takes of one window. A bare feature extractor would fuse what is too long."""
    made = extractor(window, sampling_rate=rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt")
    return {name: made[name] for name in ("input_features", "is_longer") if name in made}


def load_tagger(config: SoundConfig) -> SoundTagger:
    """Load what a configuration names.

    Raises:
        UserError: if its files are damaged or incomplete.
    """
    try:
        if config.kind == BIRDNET:
            from wanbatch.pipeline.sound.birdnet import BirdNetTagger

            return BirdNetTagger()
        if config.kind == CLAP:
            return ClapTagger(config.location, [label for label, _ in config.phrases if not label.startswith("*")])
        assert config.kind == AST
        return AstTagger(config.location)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"setting sound_model: {config.location}: cannot be loaded ({reason}): save it again with "
            "save_pretrained, with its feature extractor and tokenizer"
        ) from error


def _pooled(features: Any) -> torch.Tensor:
    """Normalised features; newer versions of transformers return them inside an output."""
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)
