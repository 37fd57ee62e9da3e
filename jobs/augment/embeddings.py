"""`wanbatch check --embeddings`: how a folder's pictures differ from the originals, as the user's model sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.jobs.augment.checking import Reader, ReaderFindings
from wanbatch.jobs.augment.dataset import Loaded
from wanbatch.jobs.augment.embedding_distances import kernel_distance, precision_and_recall
from wanbatch.jobs.augment.user_models import BATCH, OnnxModel
from wanbatch.jobs.augment.verdicts import Checked
from wanbatch.manifests.sources.loader import SourceLoader

FEWEST = 2


class Embedder(Protocol):
    """A model that says what pictures are like, in numbers."""

    def embeddings(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """float [N, dimensions]. pictures: uint8 [rows, columns, 3] each."""


class OnnxEmbedder:
    """An ONNX file as of `OnnxModel`, whose first output is taken as embeddings; what is over space is averaged."""

    def __init__(self, path: Path):
        """Raises UserError if the file cannot be used, or onnxruntime is missing."""
        self._model = OnnxModel(path)

    def embeddings(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Embedder.embeddings`."""
        found = self._model.logits(pictures)
        return found.reshape(*found.shape[:2], -1).mean(axis=2)


class TransformersEmbedder:
    """A folder that `save_pretrained` of transformers wrote, of a model for pictures."""

    def __init__(self, folder: Path):
        """Raises UserError if the folder cannot be used."""
        from transformers import AutoImageProcessor, AutoModel

        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{folder}: is no model for pictures of transformers ({said})") from error

    def embeddings(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Embedder.embeddings`."""
        import torch

        with torch.no_grad():
            inputs = self._processor(images=list(pictures), return_tensors="pt")
            vision = getattr(self._model, "vision_model", self._model)  # of models for pictures and text
            found = vision(**inputs)
            pooled = getattr(found, "pooler_output", None)
            if pooled is None:
                pooled = found.last_hidden_state.mean(dim=1)
            return pooled.flatten(1).numpy()


def open_embedder(path: Path) -> Embedder:
    """The user's model. Raises UserError if there is none, or it cannot be used."""
    if not path.exists():
        raise UserError(f"{path}: there is no such model: give an ONNX file or a folder of transformers")
    if path.is_dir():
        return TransformersEmbedder(path)
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: is no ONNX file (.onnx): export the model, or give a folder of transformers")
    return OnnxEmbedder(path)


def embedded(model: Embedder, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """What a model says of pictures, float [N, dimensions]. Raises UserError if that is not what it gives."""
    found = np.asarray(model.embeddings(pictures))
    if found.ndim != 2 or not np.isfinite(found).all():
        raise UserError(f"the model of --embeddings gives {found.shape} numbers, or some that are none")
    return found


class EmbeddingsReader(Reader):
    """Compares all pictures of a folder with the originals of a recipe.

    Args:
        model: says what pictures are like.
        originals: what the folder was made from.
    """

    def __init__(self, model: Embedder, originals: Loaded):
        self._model, self._originals = model, originals
        self._waiting: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def see(self, one: Checked, pixels: np.ndarray) -> None:
        """See `Reader.see`; pictures are looked at `BATCH` at a time."""
        self._waiting.append(pixels)
        if len(self._waiting) == BATCH:
            self._look()

    def finish(self) -> ReaderFindings:
        """See `Reader.finish`. Raises UserError: there are too few pictures, or the model gives no numbers."""
        self._look()
        made, real = self._together(self._found), self._together(list(self._of_originals()))
        if min(len(made), len(real)) < FEWEST:
            raise UserError(
                f"--embeddings compares {number_of(len(made), 'pictures')} with "
                f"{number_of(len(real), 'originals')}: it needs {FEWEST} of each"
            )
        within, covered = precision_and_recall(made, real)
        kid = kernel_distance(made, real)
        numbers = {"kid": kid, "precision": float(within.mean()), "recall": float(covered.mean())}
        return ReaderFindings({"within_originals": pa.array(within)}, numbers)

    def _look(self) -> None:
        if self._waiting:
            self._found.append(embedded(self._model, self._waiting))
            self._waiting = []

    def _of_originals(self) -> Iterator[np.ndarray]:
        loaded = self._originals
        with SourceLoader(loaded.root, allow_http=True, fence=loaded.fence) as loader:
            batch: list[np.ndarray] = []
            for original in loaded.originals:
                try:
                    batch.append(loader.load(loaded.sources[original.sha256]).pixels)
                except RowError as error:
                    raise UserError(f"{original.name}: cannot be compared with: {error}") from error
                if len(batch) == BATCH:
                    yield embedded(self._model, batch)
                    batch = []
            if batch:
                yield embedded(self._model, batch)

    def _together(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        found = list(parts)
        return np.concatenate(found) if found else np.zeros((0, 1))
