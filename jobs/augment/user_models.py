"""The user's own models, which look at pictures: a classifier that says whether their class was kept.

An ONNX file, or a folder of transformers. Both are read from the disk; nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Protocol

import numpy as np

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.augment.model_answers import ModelAnswers
from wanbatch.jobs.augment.readers import BATCH, Reader, ReaderFindings
from wanbatch.jobs.augment.verdicts import Checked
from wanbatch.pipeline.core.requests import fit
from wanbatch.suggestions import did_you_mean

USUAL_SIDE = 224
FATAL = 4
"""What onnxruntime itself writes to stderr; errors are raised, too."""
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
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"{path}: is no ONNX model ({' '.join(str(error).split())[:200]})") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise UserError(f"{path}: takes {len(inputs)} inputs: it must take one, float [N, 3, height, width]")
        self._name = inputs[0].name
        batch, _, height, width = inputs[0].shape
        self._fixed = isinstance(batch, int)
        self._batch = batch if isinstance(batch, int) else BATCH
        self._size = tuple(side if isinstance(side, int) else USUAL_SIDE for side in (width, height))
        self.classes = _names(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Model.logits`."""
        width, height = self._size
        scaled = np.stack([fit(one, width, height) for one in pictures]).astype(np.float32) / 255
        inputs = ((scaled - MEAN) / DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)
        starts = range(0, len(inputs), self._batch)
        return np.concatenate([self._run(inputs[start : start + self._batch]) for start in starts])

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        """Of a file of so many pictures at a time, the last ones are filled up with the last one."""
        missing = self._batch - len(inputs) if self._fixed else 0
        filled = np.concatenate([inputs, *[inputs[-1:]] * missing])
        return self._session.run(None, {self._name: filled})[0][: len(inputs)]


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
        self._answers = ModelAnswers("--classifier", model.logits, minus_infinity=True)
        self._classes = list(classes or model.classes or [])
        self._place: dict[str, int] = {}
        self._known = self._kept = 0

    def begin(self, labels: Callable[[], Set[str]]) -> None:
        """See `Reader.begin`. Raises UserError if a class of the pictures is none of the classifier's."""
        named = sorted(labels())
        if not named:
            raise UserError("the pictures have no column label: a classifier has nothing to compare with")
        self._classes = self._classes or named
        self._place = {name: place for place, name in reversed(list(enumerate(self._classes)))}  # the first counts
        for label in named:
            if label not in self._place:
                raise UserError(
                    f"class {label!r} is none of the classifier's ({', '.join(self._classes)}): name them in their "
                    f"order with --classes a,b,c{did_you_mean(label, self._classes)}"
                )

    def look(self, pictures: Sequence[Checked], pixels: Sequence[np.ndarray]) -> None:
        """See `Reader.look`. Raises UserError if the classifier has not as many outputs as classes."""
        found = self._answers.of(pixels, [one.id for one in pictures])
        if found.shape[1] != len(self._classes):
            raise UserError(
                f"the classifier has {number_of(found.shape[1], 'outputs')} for "
                f"{number_of(len(self._classes), 'classes')}: name them in their order with --classes a,b,c"
            )
        for one, logits in zip(pictures, found, strict=True):
            if one.label is None:
                continue
            place = self._place[one.label]
            odds = np.exp(logits - logits.max())
            one.label_rank = int((logits > logits[place]).sum())
            one.label_confidence = float(odds[place] / odds.sum())
            self._known += 1
            self._kept += one.label_rank == 0

    def finish(self, order: np.ndarray) -> ReaderFindings:
        """See `Reader.finish`."""
        return ReaderFindings({}, {"label_kept": self._kept / self._known} if self._known else {})
