"""The user's own models, which look at pictures: a classifier that says whether their class was kept.

An ONNX file, or a folder of transformers. Both are read from the disk; nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.augment.checking import Reader, ReaderFindings
from wanbatch.jobs.augment.verdicts import Checked
from wanbatch.pipeline.core.requests import fit
from wanbatch.suggestions import did_you_mean

BATCH = 32
USUAL_SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which colours are scaled by for ONNX files; a folder of transformers says its own."""


class Model(Protocol):
    """A classifier. classes: the names of its outputs, in their order, if it says them."""

    classes: Sequence[str] | None

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [N, classes]. pictures: uint8 [rows, columns, 3] each."""


class OnnxModel:
    """An ONNX file with one input, float [N, 3, height, width], and logits as its first output."""

    def __init__(self, path: Path):
        """Raises UserError if the file cannot be used, or onnxruntime is missing."""
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path}: needs onnxruntime: pip install 'wanbatch[onnx]'") from error
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"{path}: is no ONNX model ({' '.join(str(error).split())[:200]})") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise UserError(f"{path}: takes {len(inputs)} inputs: it must take one, float [N, 3, height, width]")
        self._name = inputs[0].name
        batch, _, height, width = inputs[0].shape
        self._batch = batch if isinstance(batch, int) else BATCH
        self._size = tuple(side if isinstance(side, int) else USUAL_SIDE for side in (width, height))
        self.classes = _names(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Model.logits`."""
        width, height = self._size
        scaled = np.stack([fit(one, width, height) for one in pictures]).astype(np.float32) / 255
        inputs = ((scaled - MEAN) / DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)
        parts = [inputs[start : start + self._batch] for start in range(0, len(inputs), self._batch)]
        return np.concatenate([self._session.run(None, {self._name: part})[0] for part in parts])


def _names(metadata: Mapping[str, str]) -> Sequence[str] | None:
    """The classes that an ONNX file names, as a list or as a table of numbers."""
    for key in ("classes", "names", "labels"):
        try:
            told = json.loads(metadata[key].replace("'", '"'))
        except (KeyError, ValueError):
            continue
        if isinstance(told, list):
            return [str(name) for name in told]
        if isinstance(told, dict):
            return [str(told[number]) for number in sorted(told, key=int)]
    return None


class TransformersModel:
    """A folder that `save_pretrained` of transformers wrote, of a model for image classification."""

    def __init__(self, folder: Path):
        """Raises UserError if the folder cannot be used."""
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self._model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: is no classifier of transformers ({str(error).splitlines()[0]})") from error
        names: dict[int, str] = self._model.config.id2label
        self.classes: Sequence[str] | None = [names[number] for number in sorted(names)]

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Model.logits`."""
        import torch

        with torch.no_grad():
            inputs = self._processor(images=list(pictures), return_tensors="pt")
            return self._model(**inputs).logits.numpy()


def open_classifier(path: Path) -> Model:
    """The user's classifier. Raises UserError if there is none, or it cannot be used."""
    if not path.exists():
        raise UserError(f"{path}: there is no such classifier: give an ONNX file or a folder of transformers")
    if path.is_dir():
        return TransformersModel(path)
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: is no ONNX file (.onnx): export the model, or give a folder of transformers")
    return OnnxModel(path)


class ClassifierReader(Reader):
    """Says of each picture how likely a classifier finds its class."""

    def __init__(self, model: Model, classes: Sequence[str] | None = None):
        """
        Args:
            model: the classifier.
            classes: the names of its outputs; None: as the model says them, else the labels of the pictures, sorted.
        """
        self._model, self._classes = model, list(classes or model.classes or [])
        self._waiting: list[np.ndarray] = []
        self._labels: list[str | None] = []
        self._names: dict[str, str] = {}  # each label once
        self._found: list[np.ndarray] = []  # float32 [pictures, classes] each

    def see(self, one: Checked, pixels: np.ndarray) -> None:
        """See `Reader.see`; pictures are looked at `BATCH` at a time."""
        self._labels.append(None if one.label is None else self._names.setdefault(one.label, one.label))
        self._waiting.append(pixels)
        if len(self._waiting) == BATCH:
            self._look()

    def finish(self) -> ReaderFindings:
        """See `Reader.finish`. Raises UserError if a class of the pictures is none of the classifier's."""
        if self._waiting:
            self._look()
        labels = sorted(self._names)
        if not labels:
            raise UserError("the pictures have no column label: a classifier has nothing to compare with")
        classes = self._classes or labels
        outputs = self._found[0].shape[1]
        if len(classes) != outputs:
            raise UserError(
                f"the classifier has {number_of(outputs, 'outputs')} for {number_of(len(classes), 'classes')}: "
                f"name them in their order with --classes a,b,c"
            )
        for label in labels:
            if label not in classes:
                raise UserError(
                    f"class {label!r} is none of the classifier's ({', '.join(classes)}): name them in their order "
                    f"with --classes a,b,c{did_you_mean(label, classes)}"
                )
        own = np.array([-1 if label is None else classes.index(label) for label in self._labels])
        known = own >= 0
        ranks, confidences = np.zeros(len(own), np.int32), np.zeros(len(own))
        for place, (logits, index) in enumerate(zip(chain.from_iterable(self._found), own.tolist(), strict=True)):
            if index >= 0:
                ranks[place] = (logits > logits[index]).sum()
                odds = np.exp(logits - logits.max())
                confidences[place] = odds[index] / odds.sum()
        columns = {
            "label_rank": pa.array(ranks, mask=~known),
            "label_confidence": pa.array(confidences, mask=~known),
        }
        return ReaderFindings(columns, {"label_kept": float((ranks[known] == 0).mean())})

    def _look(self) -> None:
        self._found.append(np.asarray(self._model.logits(self._waiting)))
        self._waiting = []
