"""Models of the user in `check_folder`: what is found does not depend on parts, and is what the plain way finds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from augment_making import made_from, output_folder, png
from job_making import write_jsonl
from manifest_making import encoded

from wanbatch.errors import MachineryError
from wanbatch.jobs.augment import embedding_distances, near_copies
from wanbatch.jobs.augment.checking import check_folder
from wanbatch.jobs.augment.checks_settings import Checks
from wanbatch.jobs.augment.dataset import Loaded
from wanbatch.jobs.augment.embedding_distances import differences
from wanbatch.jobs.augment.embeddings import EmbeddingsReader
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.readers import BATCH
from wanbatch.jobs.augment.user_models import ClassifierReader
from wanbatch.jobs.augment.verdicts import Checked
from wanbatch.manifests.records import Record, Source

SIZE = 8
COUNT = 90
CLASSES = ["a", "b", "c", "d"]
BROKEN = (0, 41)


class Means:
    """Embeddings and logits that are sums over stripes of a picture, exact whatever it is looked at with."""

    classes: Sequence[str] | None = None

    def __init__(self) -> None:
        self.counts: list[int] = []

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [N, 4]."""
        self.counts.append(len(pictures))
        return np.stack([self.of(one) for one in pictures])

    embeddings = logits

    @staticmethod
    def of(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(4, -1).sum(axis=1).astype(np.float32) / 2048


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number // 2 if number % 10 == 1 else number).integers(
        0, 256, (SIZE, SIZE, 3), np.uint8
    )


def label_of(number: int) -> str | None:
    return None if number % 11 == 5 else CLASSES[number % 4]


@pytest.fixture
def records(tmp_path) -> list[Record]:
    """Pictures of which two cannot be read, and some are alike; in the order of the manifest."""
    (tmp_path / "source.png").write_bytes(encoded())
    made = []
    for number in range(COUNT):
        image = encoded()[:40] if number in BROKEN else png(picture(number))
        made.append(
            replace(made_from(f"row-{number}", number, tmp_path / "source.png", image, SIZE, "s"), sources=())
        )
    return made


@pytest.fixture
def originals(tmp_path) -> Loaded:
    found, sources = [], {}
    for number in range(40):
        path = tmp_path / f"original-{number}.png"
        path.write_bytes(png(picture(1000 + number)))
        found.append(Original(path.name, path.name, str(number), "a", "train", SIZE, SIZE, path.name))
        sources[str(number)] = Source(str(path))
    return Loaded(tuple(found), sources, str(tmp_path), str(tmp_path))


def folder_of(where: Path, records: Sequence[Record], cuts: Sequence[int]) -> Path:
    manifest = write_jsonl(where.parent / "rows.jsonl", [{"id": one.id, "prompt": "x"} for one in records])
    labels = pa.table({"label": pa.array([label_of(one.manifest_row) for one in records], pa.string())})
    return output_folder(where, manifest, records, labels, cuts)


def by_id(out: Path) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(out / "checks").to_pylist()}


def test_what_is_found_is_what_the_plain_way_finds_whatever_the_parts_are(tmp_path, monkeypatch, records, originals):
    """Parts of one picture and larger ones, in the order of the manifest and in another; blocks of few."""
    monkeypatch.setattr(embedding_distances, "ROWS", 16)
    monkeypatch.setattr(near_copies, "READ", 8)
    monkeypatch.setattr(near_copies, "FEW", 8)
    mixed = [records[place] for place in np.random.default_rng(0).permutation(COUNT)]
    checked = []
    for name, its, cuts in (
        ("one", records, (0,)),
        ("small", records, tuple(range(COUNT))),
        ("mixed", mixed, (0, 1, 2, 40, 83)),
    ):
        out = folder_of(tmp_path / name, its, cuts)
        readers = [ClassifierReader(Means()), EmbeddingsReader(Means(), originals)]
        report = check_folder(out, Checks(duplicates="near"), readers=readers)
        checked.append((dict(report.folder), report.rejected_by, by_id(out)))
    assert checked[0] == checked[1] == checked[2]

    folder, _, rows = checked[0]
    shown = [number for number in range(COUNT) if number not in BROKEN]
    made = np.stack([Means.of(picture(number)) for number in shown]).astype(np.float64)
    real = np.stack([Means.of(picture(1000 + number)) for number in range(40)]).astype(np.float64)
    assert folder["kid"] == pytest.approx(plain_distance(made, real), rel=1e-9)
    within, covered = plain_within(made, real), plain_within(real, made)
    assert [rows[f"row-{number}"]["within_originals"] for number in shown] == within.tolist()
    assert 0 < folder["precision"] == within.mean() < 1
    assert folder["recall"] == covered.mean()

    ranks = {}
    for number in shown:
        logits = Means.of(picture(number))
        if (label := label_of(number)) is not None:
            own = CLASSES.index(label)
            ranks[number] = sum(one > logits[own] for one in logits)
            odds = np.exp(logits - logits.max())
            assert rows[f"row-{number}"]["label_confidence"] == float(odds[own] / odds.sum())
    assert {number: rows[f"row-{number}"]["label_rank"] for number in ranks} == ranks
    assert folder["label_kept"] == np.mean([rank == 0 for rank in ranks.values()])
    others = [rows[f"row-{number}"] for number in range(COUNT) if number not in ranks]
    assert {row["label_rank"] for row in others} == {row["label_confidence"] for row in others} == {None}


def plain_distance(made: np.ndarray, real: np.ndarray) -> float:
    """By whole matrices, as the formula is written."""

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(its: np.ndarray) -> float:
        kernels = kernel(its, its)
        return (kernels.sum() - np.trace(kernels)) / (len(its) * (len(its) - 1))

    return within(made) + within(real) - 2 * kernel(made, real).mean()


def plain_within(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.square(one[:, None] - other[None]).sum(axis=2)

    radii = np.sort(apart(others, others), axis=1)[:, 3]
    return (apart(points, others) <= radii).any(axis=1)


def test_models_are_shown_the_pictures_of_several_parts_together(tmp_path, records):
    model = Means()
    out = folder_of(tmp_path / "out", records, tuple(range(0, COUNT, 7)))
    check_folder(out, Checks(), readers=[ClassifierReader(model)])
    assert model.counts == [BATCH, BATCH, COUNT - len(BROKEN) - 2 * BATCH]


def test_classes_without_names_are_those_of_pictures_that_cannot_be_read_too(tmp_path, records):
    """What one broken file has to say of the others does not change with it."""
    kept = [one for one in records if one.manifest_row % 4 or one.manifest_row in BROKEN]  # of "a" the broken one
    out = folder_of(tmp_path / "out", kept, (0,))
    check_folder(out, Checks(), readers=[ClassifierReader(Means())])
    logits = Means.of(picture(2))
    assert by_id(out)["row-2"]["label_rank"] == sum(one > logits[2] for one in logits)


def test_nothing_is_kept_of_the_pictures_that_a_classifier_has_seen():
    class Wide:
        classes: Sequence[str] = tuple(f"class {number}" for number in range(10_000))

        def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
            return np.zeros((len(pictures), 10_000), np.float32)

    reader = ClassifierReader(Wide())
    reader.begin(lambda: {"class 7"})
    pixels = [np.zeros((SIZE, SIZE, 3), np.uint8)] * BATCH
    tracemalloc.start()
    try:
        for _ in range(64):
            reader.look([Checked("x", 0, 0, "", label="class 7") for _ in range(BATCH)], pixels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * BATCH * 10_000 * 4  # the logits of 16 of 64 batches
    assert reader.finish(np.arange(64 * BATCH)).folder == {"label_kept": 1.0}


def test_embeddings_are_compared_without_all_distances_in_memory(monkeypatch):
    monkeypatch.setattr(embedding_distances, "ROWS", 128)
    made, real = (np.random.default_rng(seed).normal(0, 1, (2000, 4)).astype(np.float32) for seed in (1, 2))
    tracemalloc.start()
    try:
        found = differences(made, real)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.within.mean() > 0.5
    assert peak < 2000 * 2000  # an eighth of the distances


def test_a_temporary_folder_that_is_gone_is_named_and_nothing_is_written(tmp_path, monkeypatch, records, originals):
    out = folder_of(tmp_path / "out", records, (0,))
    reader = EmbeddingsReader(Means(), originals)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(MachineryError, match="gone"):
        check_folder(out, Checks(), readers=[reader])
    assert not (out / "checks").exists()
