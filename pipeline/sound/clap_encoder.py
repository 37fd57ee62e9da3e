"""A frozen CLAP as the ear of an adapter: the frames of its audio tower. Runs with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.sound.taggers import clap_features


class ClapEncoder:
    """Frames of CLAP's audio tower (`adapter.SoundEncoder`). It is frozen, and no part of an adapter's own file.

    Args:
        folder: Of the model, with its feature extractor, in the layout of transformers.
        digest: Of its weights, as `config.find_clap` gives it.
        device: Where the tower works; features are made on the CPU.

    Raises:
        UserError: if it cannot be loaded.
    """

    seconds = 10.0

    def __init__(self, folder: str | Path, digest: str, device: str | torch.device = "cpu"):
        from transformers import ClapFeatureExtractor, ClapModel

        try:
            model: Any = ClapModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self._extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"setting sound_model: {folder}: cannot be loaded as CLAP ({reason}): save it again with "
                "save_pretrained, with its feature extractor"
            ) from error
        self._tower, self._device = model.audio_model.eval().requires_grad_(False).to(device), device
        self.digest, self.rate = digest, int(self._extractor.sampling_rate)
        self.dim = int(model.config.audio_config.hidden_size)

    @property
    def config(self) -> dict[str, Any]:
        """What an adapter's file says of it."""
        return {"rate": self.rate, "seconds": self.seconds, "dim": self.dim}

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """Frames [batch, frames, dim] of samples, float32 [batch, rate * seconds]; each sound is worked out alone."""
        return torch.cat([self._of_one(sound) for sound in samples]).to(samples.device)

    def _of_one(self, sound: Tensor) -> Tensor:
        made = clap_features(self._extractor, sound.cpu().numpy(), self.rate)
        features = {name: value.to(self._device) for name, value in made.items()}
        return self._tower(**features).last_hidden_state.flatten(2).transpose(1, 2).float()
