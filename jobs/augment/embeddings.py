"""`wanbatch check --embeddings`: how a folder's pictures differ from the originals, as the user's model sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.jobs.augment.dataset import Loaded
from wanbatch.jobs.augment.embedding_distances import differences
from wanbatch.jobs.augment.model_answers import ModelAnswers
from wanbatch.jobs.augment.numbers_on_disk import NumbersOnDisk
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.readers import BATCH, Reader, ReaderFindings
from wanbatch.jobs.augment.user_models import OnnxModel
from wanbatch.jobs.augment.verdicts import Checked
from wanbatch.manifests.sources.loader import SourceLoader

FLAG = "--embeddings"
FEWEST = 2
"""Pictures and originals that are compared at least."""


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


class EmbeddingsReader(Reader):
    """Compares all pictures of a folder with the originals of a recipe. Embeddings are in temporary files.

    Args:
        model: says what pictures are like.
        originals: what the folder was made from.
    """

    def __init__(self, model: Embedder, originals: Loaded):
        self._answers, self._originals = ModelAnswers(FLAG, model.embeddings), originals
        self._made, self._real = NumbersOnDisk(), NumbersOnDisk()

    def begin(self, labels: Callable[[], Set[str]]) -> None:
        """See `Reader.begin`; looks at the originals. Raises UserError if there are too few, or one is gone."""
        loaded = self._originals
        count = len(loaded.originals)
        if count < FEWEST:
            raise UserError(
                f"{FLAG} compares with {number_of(count, 'originals')} that the recipe augments: it needs {FEWEST}"
            )
        with SourceLoader(loaded.root, allow_http=True, fence=loaded.fence) as loader:
            for start in range(0, count, BATCH):
                batch = loaded.originals[start : start + BATCH]
                pixels = [self._pixels_of(one, loader) for one in batch]
                self._real.add(self._answers.of(pixels, [one.name for one in batch]))

    def look(self, pictures: Sequence[Checked], pixels: Sequence[np.ndarray]) -> None:
        """See `Reader.look`. Raises UserError if the model gives no embeddings."""
        self._made.add(self._answers.of(pixels, [one.id for one in pictures]))

    def finish(self, order: np.ndarray) -> ReaderFindings:
        """See `Reader.finish`. Raises UserError if there are too few pictures."""
        if len(self._made) < FEWEST:
            raise UserError(
                f"{FLAG} compares {number_of(len(self._made), 'pictures')} with "
                f"{number_of(len(self._real), 'originals')}: it needs {FEWEST} of each"
            )
        with self._made.in_order(order) as made:  # so that sums do not depend on which part has which picture
            found = differences(made, self._real)
        within = np.empty_like(found.within)
        within[order] = found.within
        precision, recall = float(found.within.mean()), float(found.covered.mean())
        return ReaderFindings(
            {"within_originals": pa.array(within)}, {"kid": found.kid, "precision": precision, "recall": recall}
        )

    def close(self) -> None:
        """See `Reader.close`."""
        self._made.close()
        self._real.close()

    def _pixels_of(self, original: Original, loader: SourceLoader) -> np.ndarray:
        try:
            return loader.load(self._originals.sources[original.sha256]).pixels
        except RowError as error:
            raise UserError(f"{original.name}: cannot be compared with: {error}") from error
