"""Splits of a folder: told by names as `datasets` tells them, read together with a column, or one of them."""

from __future__ import annotations

from pathlib import Path

import datasets
import pandas as pd
import pytest
from job_making import picture, write_jsonl

from wanbatch.errors import UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.reading.splits import splits_of

TRAIN, TEST = [{"prompt": "a"}, {"prompt": "b"}], [{"prompt": "c"}]

SAID = "which are read together; the column 'split' says which is which, and --split takes one of them"


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)


def read(folder: Path, **options) -> list[tuple[str | None, str | None]]:
    """(split, prompt) of each row, in the order of prompts."""
    manifest = read_manifest(folder, **options)
    prompts = [row.prompt for row in manifest.iter_rows()]
    known = "split" in manifest.passthrough.column_names
    splits = manifest.passthrough["split"].to_pylist() if known else [None] * len(prompts)
    return sorted(zip(splits, prompts, strict=True), key=lambda pair: pair[1])


LAYOUTS = [
    ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    ("data/train-00000-of-00001-1a2b.parquet", "data/test-00000-of-00001-3c4d.parquet"),
    ("train.jsonl", "test.jsonl"),
    ("train/1.csv", "test/1.csv"),
    ("my_training_set.parquet", "my_eval_set.parquet"),
    ("en/train/0000.parquet", "en/test/0000.parquet"),
]


@pytest.mark.parametrize("names", LAYOUTS, ids=[names[0] for names in LAYOUTS])
def test_the_splits_that_datasets_finds_are_told(tmp_path, names):
    for name, rows in zip(names, (TRAIN, TEST), strict=True):
        write(tmp_path / "shop" / name, rows)
    loaded = datasets.load_dataset(str(tmp_path / "shop"), cache_dir=str(tmp_path / "cache"))
    by_datasets = [(split, row["prompt"]) for split, rows in loaded.items() for row in rows]
    assert read(tmp_path / "shop") == sorted(by_datasets, key=lambda pair: pair[1])
    manifest = read_manifest(tmp_path / "shop")
    assert manifest.warnings == (f"{tmp_path}/shop: has the splits test (1 file) and train (1 file), {SAID}",)
    assert read(tmp_path / "shop", split="test") == [("test", "c")]
    one = read_manifest(tmp_path / "shop", split="train")
    assert (len(one), one.warnings) == (2, ())


def test_captions_of_pictures_stay_with_them_in_a_split(tmp_path):
    for name in ("test/0", "test/1", "train/0", "train/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / f"{name}.png", 32, 32)
        if name != "train/0":
            (tmp_path / f"{name}.txt").write_text(f"caption of {name}")
    for split, prompts in (
        ("test", ["caption of test/0", "caption of test/1"]),
        ("train", [None, "caption of train/1"]),
    ):
        rows = list(read_manifest(tmp_path, split=split, prompt_of_run=True).iter_rows())
        assert [row.prompt for row in rows] == prompts
        assert [row.sources[0].path for row in rows] == [f"{split}/{number}.png" for number in range(2)]


def test_a_folder_that_datasets_wrote_with_splits_of_other_names(tmp_path):
    """As `push_to_hub` calls their files."""
    for name, rows in (("unlabelled", TRAIN), ("gold", TEST)):
        (tmp_path / "shop/data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / f"shop/data/{name}-00000-of-00001.parquet")
    assert read(tmp_path / "shop") == [("unlabelled", "a"), ("unlabelled", "b"), ("gold", "c")]


@pytest.mark.parametrize(
    "names",
    [
        ("1.parquet", "2.parquet"),
        ("train.parquet", "more.parquet"),  # one of them is of no split
        ("train/1.parquet", "train/2.parquet"),  # there is one split
        ("contest.parquet", "trainee.parquet"),  # the words are parts of others
        ("train/test.parquet", "train/eval.parquet"),
        ("train-test.parquet", "test.parquet"),
    ],
)
def test_other_folders_have_none(tmp_path, names):
    for name in names:
        write(tmp_path / "shop" / name, TRAIN)
    manifest = read_manifest(tmp_path / "shop")
    assert ("split" in manifest.passthrough.column_names, manifest.warnings) == (False, ())


def test_a_column_of_the_manifest_wins(tmp_path):
    write(tmp_path / "shop/train.jsonl", [{"prompt": "a", "split": "mine"}])
    write(tmp_path / "shop/test.jsonl", [{"prompt": "b"}])
    assert read(tmp_path / "shop") == [("mine", "a"), ("test", "b")]
    write(tmp_path / "parts/train.parquet", [{"prompt": "a", "split": "mine"}])
    write(tmp_path / "parts/test.parquet", [{"prompt": "b", "split": "own"}])
    assert read(tmp_path / "parts") == [("mine", "a"), ("own", "b")]


def test_partitions_called_split(tmp_path):
    for split, rows in (("train", TRAIN), ("test", TEST)):
        write(tmp_path / f"shop/split={split}/0.parquet", rows)
    assert read(tmp_path / "shop", split="train") == [("train", "a"), ("train", "b")]


def test_a_saved_dataset(tmp_path):
    splits = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved", split="test") == [("test", "c")]
    assert read_manifest(tmp_path / "saved").warnings[0].endswith(SAID)


def test_folders_of_pictures_with_tables(tmp_path):
    for split, name in (("train", "1.png"), ("train", "2.png"), ("test", "3.png")):
        (tmp_path / "birds" / split).mkdir(parents=True, exist_ok=True)
        picture(tmp_path / "birds" / split / name, 32, 32)
    write_jsonl(tmp_path / "birds/train/metadata.jsonl", [{"file_name": "1.png", "prompt": "a"}])
    write_jsonl(tmp_path / "birds/test/metadata.jsonl", [{"file_name": "3.png", "prompt": "c"}])
    assert read(tmp_path / "birds") == [("train", "a"), ("test", "c")]
    assert read(tmp_path / "birds", split="train") == [("train", "a")]
    assert "1 picture is in no row" in read_manifest(tmp_path / "birds", split="train").warnings[0]
    assert read_manifest(tmp_path / "birds", split="test").warnings == ()


def test_a_folder_with_one_split_can_be_asked_for_it(tmp_path):
    write(tmp_path / "shop/data/train-00000-of-00001.parquet", TRAIN)
    assert read(tmp_path / "shop", split="train") == read(tmp_path / "shop") == [(None, "a"), (None, "b")]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("trian", "has test, train; did you mean train?"), ("gold", "has test, train")],
)
def test_a_split_that_is_not_there(tmp_path, wanted, said):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / "shop" / name, TRAIN)
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "shop", split=wanted)
    assert str(caught.value) == f"--split {wanted}: {tmp_path}/shop {said}"
    write(tmp_path / "m.jsonl", TRAIN)
    with pytest.raises(UserError, match=r"--split train: .*m\.jsonl has no splits: leave --split out$"):
        read_manifest(tmp_path / "m.jsonl", split="train")


def test_many_files():
    names = [f"data/train-{n:05}-of-50000.parquet" for n in range(50_000)] + ["data/test-00000-of-00001.parquet"]
    found = splits_of(names)
    assert (found[0], found[-1], len(found)) == ("train", "test", 50_001)
