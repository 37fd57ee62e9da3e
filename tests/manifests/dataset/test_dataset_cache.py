"""`datasets` keeps what it loaded: with one cache for all, each folder gives its own rows, and those of now."""

import re
import shutil
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard
from manifest_making import unit_of
from output_folders import publish

from wanbatch.manifests.dataset.card import CardContent
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair


def fill(out: Path, *units: list[str], settle: bool = True) -> Path:
    """Publish a unit of each list of ids that the folder does not have yet, as a run does."""
    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}))
        for names in units:
            if names[0] not in folder.committed().made:
                publish(folder, folder.committed().next_unit, names)
        if settle:
            folder.settle_card()
    return out


@pytest.fixture
def load(tmp_path):
    """Loads the ids of a folder as users do; what it loads is kept in one place for the whole test."""

    def ids(out: Path) -> list[str]:
        cached = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
        named = datasets.load_dataset(str(out), "default", cache_dir=str(tmp_path / "cache"))["train"]
        streamed = datasets.load_dataset(str(out), split="train", streaming=True, cache_dir=str(tmp_path / "cache"))
        assert cached["id"][:] == named["id"][:] == [row["id"] for row in streamed]
        return cached["id"][:]

    return ids


def test_what_the_card_shows_loads_the_images(out, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    card = (fill(out, ["a"], ["b"]) / "README.md").read_text()
    code = re.search(r"```python\n(from datasets import load_dataset\n.*?)```", card, re.DOTALL)[1]
    shown: dict = {}
    exec(code.replace("path/to/this/folder", str(out)), shown)
    assert shown["images"]["id"][:] == ["a", "b"]


def test_two_projects_with_an_out_each(tmp_path, load):
    for project, names in (("A", ["a1"]), ("B", ["b1"])):
        (tmp_path / project).mkdir()
        fill(tmp_path / project / "out", names)
    assert load(tmp_path / "A/out") == ["a1"]
    assert load(tmp_path / "B/out") == ["b1"]
    assert load(tmp_path / "A/out") == ["a1"]


def test_a_folder_that_grows(out, load):
    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}))
        for unit, names in enumerate((["a"], ["b"])):
            publish(folder, unit, names)
            assert load(out) == ["a", "b"][: unit + 1], "while the run goes on"
        folder.settle_card()
    fill(out, ["a"], ["b"], ["c"])
    assert load(out) == ["a", "b", "c"]


def test_a_folder_without_news_is_not_loaded_again(out, tmp_path, load):
    load(fill(out, ["a"]))
    kept = sorted((tmp_path / "cache").rglob("*.arrow"))
    load(fill(out, ["a"]))
    assert sorted((tmp_path / "cache").rglob("*.arrow")) == kept


def test_a_part_that_was_seen_before_its_commit_and_set_aside(out, load):
    """A run is killed between publishing and committing, somebody looks, and the next run has the same commits."""
    fill(out, ["a"], settle=False)
    attempt = write_attempt(out, attempt="t", **unit_of(1, ["never committed"]))
    (out / "_wanbatch/tmp" / attempt.names["data"]).rename(out / "data/part-00001.parquet")
    assert load(out) == ["a", "never committed"]
    fill(out, ["a"], settle=False)
    assert load(out) == ["a"]
    fill(out, ["a"])
    assert load(out) == ["a"]


def test_a_repaired_folder(out, load):
    load(fill(out, ["a"], ["b"]))
    (out / "data/part-00001.parquet").unlink()
    assert repair(out).ids == ("b",)
    assert load(out) == ["a"]
    assert "\n1 image, made from a manifest" in (out / "README.md").read_text()
    assert load(fill(out, ["a"], ["b"])) == ["a", "b"]


def test_a_moved_folder_and_a_copy_that_goes_its_own_way(out, tmp_path, load):
    fill(out, ["a"])
    for name in ("moved", "copied"):
        shutil.copytree(out, tmp_path / name / out.name)
    assert load(tmp_path / "moved" / out.name) == ["a"]
    fill(out, ["a"], ["b"])
    copy = fill(tmp_path / "copied" / out.name, ["a"], ["c"])
    assert (load(out), load(copy)) == (["a", "b"], ["a", "c"])


def test_images_that_are_made_again(out, load):
    fill(out, ["a"])
    load(out)
    before = DatasetCard.load(out / "README.md").data
    with OutputFolder.open(out, {}) as folder:
        folder.keep_card(CardContent("tiny", None, {}))
        folder.publish(write_attempt(out, attempt="t", **unit_of(1, ["a"], ["b"])), replace=True)
        folder.settle_card()
    assert DatasetCard.load(out / "README.md").data.get("configs") != before.get("configs")
    assert load(out) == ["a"]
