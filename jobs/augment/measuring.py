"""`wanbatch augment --measure`: whether the pictures that were made help a classifier, on pictures it never saw."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from wanbatch import __version__
from wanbatch.errors import UserError
from wanbatch.jobs.augment.augment import read_reference
from wanbatch.jobs.augment.classifier import BATCH, SIDE, Examples, train_and_test
from wanbatch.jobs.augment.leakage import leaks_between
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.statistics import ARMS, Measured, plot, table
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.dataset.checks import REJECTED_BY, checks_name
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.atomic_files import make_folder, write_atomic
from wanbatch.manifests.storage.backend import open_backend
from wanbatch.pipeline.core.requests import fit

TEST = ("test", "testing", "val", "valid", "validation")
"""Splits that are tested on, the first that there is."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is trained. epochs: over the pictures of an arm. seeds: trainings of each arm."""

    epochs: int = 30
    seeds: int = 5
    device: str = "cpu"


def measure_gain(
    recipe: Path,
    out: str | Path,
    settings: Settings,
    effort: Effort,
    progress: Callable[[str], None] = lambda said: None,
) -> Measured:
    """Train classifiers with and without the pictures of a folder, and test them on a split that nothing was made of.

    Args:
        recipe: whose dataset has the originals and the test pictures.
        out: the output folder with the pictures that were made.
        settings: how the dataset is read.
        effort: how much is trained.
        progress: is told what goes on.
    Raises:
        UserError: There is no test split, there are no classes, or the folder is not of this dataset.
    """
    reference = read_reference(recipe, settings, everything_looked_at=True)
    originals, held_out = reference.augmented.originals, reference.held_out
    split = _test_split(recipe, held_out)
    classes = sorted({one.label for one in originals if one.label is not None})
    if len(classes) < 2:
        raise UserError(
            f"{recipe}: measuring needs two classes or more, with pictures in split {reference.recipe.split}"
        )
    copies = {id(leak.original) for leak in leaks_between([one for one in held_out if one.split == split], originals)}
    tested = [one for one in held_out if one.split == split and one.label in classes and id(one) not in copies]
    if not tested:
        raise UserError(
            f"{recipe}: split {split} has no pictures of the classes that are augmented: nothing to test on"
        )
    with SourceLoader(reference.augmented.root, allow_http=True, fence=reference.augmented.fence) as loader:
        sources = {**reference.held_out_sources, **reference.augmented.sources}
        load = _Loading(loader, sources, classes)
        real, test = load.examples([one for one in originals if one.label in classes]), load.examples(tested)
    made, passed = _made(out, classes, {one.sha256 for one in originals})
    return _train(_Sets(real, made, passed, test, tuple(classes)), effort, progress)


def _test_split(recipe: Path, held_out: Sequence[Original]) -> str:
    names = list(dict.fromkeys(str(one.split) for one in held_out))
    found = next((name for wanted in TEST for name in names if name.lower() == wanted), None)
    if found is None:
        there = ", ".join(names) or "none"
        raise UserError(
            f"{recipe}: measuring needs a split called test (or val) that nothing is made of; held out are: {there}"
        )
    return found


class _Loading:
    """Loads originals as the classifier sees them."""

    def __init__(self, loader: SourceLoader, sources: dict[str, Any], classes: Sequence[str]):
        self._loader, self._sources, self._classes = loader, sources, list(classes)

    def examples(self, originals: Sequence[Original]) -> Examples:
        pixels = [fit(self._loader.load(self._sources[one.sha256]).pixels, SIDE, SIDE) for one in originals]
        return Examples(np.stack(pixels), np.array([self._classes.index(str(one.label)) for one in originals]))


@dataclass(frozen=True, slots=True)
class _Sets:
    """Pictures: originals, made ones, which of these pass the checks, those to test on; and the names of classes."""

    real: Examples
    made: Examples
    passed: np.ndarray
    test: Examples
    classes: tuple[str, ...]


def _made(out: str | Path, classes: Sequence[str], digests: set[str]) -> tuple[Examples, np.ndarray]:
    """The pictures of an output folder, and which of them no check rejects."""
    held = committed_rows(str(out))
    if held is None or not held.parts:
        raise UserError(f"{out}: has no pictures: make them with wanbatch augment RECIPE --run --out {out}")
    backend = open_backend(out)
    pixels, labels, passed = [], [], []
    for part in held.parts:
        with backend.open(part) as file:
            data = pq.ParquetFile(file)
            if not {"label", "source_sha256"} <= set(data.schema_arrow.names):
                raise UserError(f"{out}: was made from no recipe: its pictures have no label and no source_sha256")
            rows = data.read(columns=["id", "image", "label", "source_sha256"]).to_pylist()
        if not backend.exists(checks_name(part)):
            raise UserError(f"{out}: is not checked yet: wanbatch check {out} says which pictures are filtered out")
        with backend.open(checks_name(part)) as file:
            checks = pq.ParquetFile(file).read(columns=["id", REJECTED_BY]).to_pylist()
        rejected = {one["id"] for one in checks if one[REJECTED_BY]}
        for row in rows:
            if row["label"] not in classes or row["source_sha256"] not in digests:
                continue
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                pixels.append(fit(np.asarray(image.convert("RGB")), SIDE, SIDE))
            labels.append(list(classes).index(row["label"]))
            passed.append(row["id"] not in rejected)
    if not labels:
        raise UserError(
            f"{out}: has no pictures of this recipe's originals: name the folder that they were made into"
        )
    return Examples(np.stack(pixels), np.array(labels)), np.array(passed)


def _train(sets: _Sets, effort: Effort, progress: Callable[[str], None]) -> Measured:
    arms = _arms(sets)
    long = -(-len(arms["ours"]) * effort.epochs // BATCH)
    accuracies: dict[str, list[float]] = {arm: [] for arm in ARMS}
    right: dict[str, np.ndarray] = {arm: np.zeros(len(sets.classes)) for arm in ARMS}
    counts = np.bincount(sets.test.labels, minlength=len(sets.classes))
    for seed in range(effort.seeds):
        for arm in ARMS:
            steps = -(-len(sets.real) * effort.epochs // BATCH) if arm == "real" else long
            classic = arm in ("classic", "both")
            found = train_and_test(arms[arm], sets.test, len(sets.classes), steps, seed, classic, effort.device)
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
    ours = _together(sets.real, sets.made)
    kept = Examples(sets.made.pixels[sets.passed], sets.made.labels[sets.passed])
    filtered = _together(sets.real, kept)
    real = sets.real
    return {"real": real, "repeated": real, "classic": real, "ours": ours, "both": ours, "filtered": filtered}


def _together(one: Examples, other: Examples) -> Examples:
    pixels, labels = np.concatenate([one.pixels, other.pixels]), np.concatenate([one.labels, other.labels])
    return Examples(pixels, labels)


def write_result(target: Path, measured: Measured, facts: dict[str, Any]) -> None:
    """Write what was measured as JSON, and its plot beside it as SVG. Raises UserError if it cannot be written."""
    told = {"wanbatch": __version__, **facts, **measured.as_json(), "table": table(measured)}
    try:
        make_folder(target.absolute().parent)
        write_atomic(target.absolute(), (json.dumps(told, indent=1) + "\n").encode())
        write_atomic(target.absolute().with_suffix(".svg"), plot(measured).encode())
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}): choose another file") from error
