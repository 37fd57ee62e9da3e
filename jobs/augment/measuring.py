"""`wanbatch augment --measure`: whether the pictures that were made help a classifier, on pictures it never saw."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from wanbatch import __version__
from wanbatch.errors import UserError
from wanbatch.jobs.augment.augment import read_reference
from wanbatch.jobs.augment.classifier import BATCH, Examples, Labelled, Learner
from wanbatch.jobs.augment.leakage import leaks_between
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.statistics import ARMS, Measured, plot, table
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.dataset.checks import REJECTED_BY, checks_name
from wanbatch.manifests.dataset.committed_parts import opened_part
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.atomic_files import make_folder, write_atomic
from wanbatch.manifests.storage.backend import StorageBackend, open_backend

TEST = ("test", "testing", "val", "valid", "validation")
"""Splits that are tested on, the first that there is."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is trained. epochs: over the pictures of an arm. seeds: trainings of each arm."""

    epochs: int = 30
    seeds: int = 5


class Material:
    """The pictures that is measured with: originals, those that were made of them, and those to test on."""

    def __init__(self, recipe: Path, out: str | Path, settings: Settings):
        """
        Args:
            recipe: whose dataset has the originals and the test pictures.
            out: the output folder with the pictures that were made.
            settings: how the dataset is read.
        Raises:
            UserError: There is no test split, or there are no classes.
        """
        self._reference = reference = read_reference(recipe, settings, everything_looked_at=True)
        originals, held_out = reference.augmented.originals, reference.held_out
        split = _test_split(recipe, held_out)
        self.classes = sorted({one.label for one in originals if one.label is not None})
        if len(self.classes) < 2:
            raise UserError(
                f"{recipe}: measuring needs two classes or more, with pictures in split {reference.recipe.split}"
            )
        of_split = [one for one in held_out if one.split == split]
        copies = {id(leak.original) for leak in leaks_between(of_split, originals)}
        self._tested = [one for one in of_split if one.label in self.classes and id(one) not in copies]
        if not self._tested:
            raise UserError(
                f"{recipe}: split {split} has no pictures of the classes that are augmented: nothing to test on"
            )
        self._real = [one for one in originals if one.label in self.classes]
        self._out, self._digests = out, {one.sha256 for one in originals}

    def real(self) -> Labelled:
        """The originals."""
        return self._loaded(self._real)

    def test(self) -> Labelled:
        """The pictures to test on."""
        return self._loaded(self._tested)

    def made(self, passed: list[bool]) -> Labelled:
        """The pictures that were made. passed: is told of each whether no check rejects it.

        Raises:
            UserError: The folder has none of this dataset, or is not checked.
        """
        rows = _made_rows(self._out)
        for row, is_rejected in rows:
            if row["label"] in self.classes and row["source_sha256"] in self._digests:
                with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                    pixels = np.asarray(image.convert("RGB"))
                passed.append(not is_rejected)
                yield pixels, self.classes.index(row["label"])
        if not passed:
            raise UserError(
                f"{self._out}: has no pictures of this recipe's originals: name the folder that they were made into"
            )

    def _loaded(self, originals: Sequence[Original]) -> Labelled:
        reference = self._reference
        sources = {**reference.held_out_sources, **reference.augmented.sources}
        with SourceLoader(reference.augmented.root, allow_http=True, fence=reference.augmented.fence) as loader:
            for one in originals:
                yield loader.load(sources[one.sha256]).pixels, self.classes.index(str(one.label))


def measure_gain(
    material: Material, learner: Learner, effort: Effort, progress: Callable[[str], None] = lambda said: None
) -> Measured:
    """Train classifiers with and without the pictures of a folder, and test them on a split that nothing was made of.

    Args:
        material: the pictures.
        learner: what is trained.
        effort: how much is trained.
        progress: is told what goes on.
    Raises:
        UserError: The folder is not of this dataset, or a picture cannot be read.
    """
    passed: list[bool] = []
    made = learner.examples(material.made(passed), trained_on=True)
    real = learner.examples(material.real(), trained_on=True)
    test = learner.examples(material.test(), trained_on=False)
    sets = _Sets(real, made, np.array(passed), test, tuple(material.classes))
    return _train(sets, learner, effort, progress)


def _test_split(recipe: Path, held_out: Sequence[Original]) -> str:
    names = list(dict.fromkeys(str(one.split) for one in held_out))
    found = next((name for wanted in TEST for name in names if name.lower() == wanted), None)
    if found is None:
        there = ", ".join(names) or "none"
        raise UserError(
            f"{recipe}: measuring needs a split called test (or val) that nothing is made of; held out are: {there}"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Sets:
    """Pictures: originals, made ones, which of these pass the checks, those to test on; and the names of classes."""

    real: Examples
    made: Examples
    passed: np.ndarray
    test: Examples
    classes: tuple[str, ...]


def _made_rows(out: str | Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """The rows of an output folder, and whether a check rejects each."""
    held = committed_rows(str(out))
    if held is None or not held.parts:
        raise UserError(f"{out}: has no pictures: make them with wanbatch augment RECIPE --run --out {out}")
    backend = open_backend(out)
    for part in held.parts:
        with opened_part(backend, part) as data:
            if not {"label", "source_sha256"} <= set(data.schema_arrow.names):
                raise UserError(f"{out}: was made from no recipe: its pictures have no label and no source_sha256")
            rows = data.read(columns=["id", "image", "label", "source_sha256"]).to_pylist()
        if not backend.exists(checks_name(part)):
            raise UserError(f"{out}: is not checked yet: wanbatch check {out} says which pictures are filtered out")
        rejected = _rejected(backend, checks_name(part))
        for row in rows:
            yield row, row["id"] in rejected


def _rejected(backend: StorageBackend, name: str) -> set[str]:
    """The ids that a part of `checks/` rejects."""
    try:
        with backend.open(name) as file, pq.ParquetFile(file, page_checksum_verification=True) as part:
            rows = part.read(columns=["id", REJECTED_BY]).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{backend.location(name)}: cannot be read ({error}): "
            f"`wanbatch check {shlex.quote(backend.root)}` writes it again"
        ) from error
    return {one["id"] for one in rows if one[REJECTED_BY]}


def _train(sets: _Sets, learner: Learner, effort: Effort, progress: Callable[[str], None]) -> Measured:
    arms = _arms(sets)
    long = -(-len(arms["ours"]) * effort.epochs // BATCH)
    accuracies: dict[str, list[float]] = {arm: [] for arm in ARMS}
    right: dict[str, np.ndarray] = {arm: np.zeros(len(sets.classes)) for arm in ARMS}
    counts = np.bincount(sets.test.labels, minlength=len(sets.classes))
    for seed in range(effort.seeds):
        for arm in ARMS:
            steps = -(-len(sets.real) * effort.epochs // BATCH) if arm == "real" else long
            classic = arm in ("classic", "both")
            found = learner.train_and_test(arms[arm], sets.test, len(sets.classes), steps, seed, classic)
            hits = found == sets.test.labels
            accuracies[arm].append(float(hits.mean()))
            right[arm] += np.bincount(sets.test.labels[hits], minlength=len(sets.classes)) / np.maximum(counts, 1)
            progress(f"seed {seed + 1} of {effort.seeds}, {arm}: {100 * hits.mean():.1f}%")
    return Measured(
        sets.classes,
        {arm: tuple(its) for arm, its in accuracies.items()},
        {arm: tuple((its / effort.seeds).tolist()) for arm, its in right.items()},
        {arm: len(its) for arm, its in arms.items()},
        len(sets.test),
    )


def _arms(sets: _Sets) -> dict[str, Examples]:
    real, ours = sets.real, sets.real.with_more(sets.made)
    filtered = real.with_more(sets.made.where(sets.passed))
    return {"real": real, "repeated": real, "classic": real, "ours": ours, "both": ours, "filtered": filtered}


def write_result(
    target: Path, measured: Measured, facts: dict[str, Any], backbone: tuple[Path, Measured] | None = None
) -> None:
    """Write what was measured as JSON, and plots beside it as SVG. Raises UserError if it cannot be written.

    Args:
        target: the JSON file.
        measured: by the small network.
        facts: what else is to stand there.
        backbone: a model of the user, and what was measured by its embeddings.
    """
    told = {"wanbatch": __version__, **facts, **measured.as_json(), "table": table(measured)}
    plots = {target.with_suffix(".svg"): plot(measured)}
    if backbone is not None:
        model, by_it = backbone
        told["embeddings"] = {"model": str(model), **by_it.as_json(), "table": table(by_it)}
        plots[target.with_suffix(".embeddings.svg")] = plot(by_it)
    try:
        make_folder(target.absolute().parent)
        write_atomic(target.absolute(), (json.dumps(told, indent=1) + "\n").encode())
        for path, drawn in plots.items():
            write_atomic(path.absolute(), drawn.encode())
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}): choose another file") from error
