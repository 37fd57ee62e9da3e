"""`wanbatch augment --measure` on pictures whose worth is known: made ones that help, and made ones that do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from augment_making import made_from, output_folder, png
from command_line import invoke, refused
from job_making import write_jsonl
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.augment.measuring import Effort, measure_gain, write_result
from wanbatch.jobs.augment.statistics import ARMS
from wanbatch.jobs.config.settings import Settings

RECIPE = 'dataset = "set"\nsplit = "train"\ntemplate = "a {label}"\ncreativity = 0.3\n'
SIZE = 48


def stripes(label: str, seed: int) -> np.ndarray:
    """Stripes across or along on any colours: a class that only many pictures teach."""
    draw = np.random.default_rng(seed)
    wave = np.sin(np.arange(SIZE) / draw.uniform(1.5, 4) + draw.uniform(0, 6))[:, None].repeat(SIZE, axis=1)
    first, second = draw.integers(0, 256, (2, 3))
    mixed = (wave if label == "across" else wave.T)[..., None] > 0
    return np.where(mixed, first, second).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path) -> Path:
    Path("recipe.toml").write_text(RECIPE)
    for split, count in (("train", 2), ("test", 20)):
        for label in ("across", "along"):
            folder = tmp_path / "set" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * (split == "test") + 100 * (label == "along") + index
                Image.fromarray(stripes(label, seed)).save(folder / f"{index}.png")
    return tmp_path


def made(dataset: Path, truthful: bool) -> Path:
    """Thirty pictures a class, of their class or of the other one."""
    other = {"across": "along", "along": "across"}
    records, labels, digests = [], [], []
    for index in range(60):
        label = ("across", "along")[index % 2]
        source = dataset / f"set/train/{label}/0.png"
        image = png(stripes(label if truthful else other[label], 5000 + index))
        records.append(made_from(f"{label}-{index}", index, source, image, SIZE, f"set/train/{label}/0.png"))
        labels.append(label)
        digests.append(records[-1].sources[0].sha256)
    rows = [{"id": one.id, "prompt": "a", "image": one.sources[0].path} for one in records]
    manifest = write_jsonl(dataset / "rows.jsonl", rows)
    columns = pa.table({"label": labels, "source_sha256": digests})
    return output_folder(dataset / f"made-{truthful}", manifest, records, columns, (0, 30))


@pytest.mark.slow
def test_pictures_that_teach_the_class_help_and_those_of_the_other_class_do_not(dataset):
    good, bad = made(dataset, True), made(dataset, False)
    for out in (good, bad):
        assert invoke("check", out, "--recipe", "recipe.toml").exit_code == 0
    helped, hurt = (measure_gain(Path("recipe.toml"), out, Settings(), Effort(16, 1)) for out in (good, bad))
    assert helped.pictures["real"] == 4
    assert helped.pictures["ours"] == 64
    assert helped.test == 40
    assert np.mean(helped.accuracies["ours"]) > 0.9
    assert helped.against("ours", "classic").mean > 0.05
    assert hurt.against("ours", "classic").mean < -0.2
    assert hurt.verdict().startswith("It does not pay here: ")


def test_the_command_writes_table_plot_and_numbers(dataset):
    good = made(dataset, True)
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", good))
    assert line == f"{good}: is not checked yet: wanbatch check {good} says which pictures are filtered out"
    invoke("check", good)
    done = invoke("augment", "recipe.toml", "--measure", good, "--epochs", 1, "--result", "said.json")
    assert done.exit_code == 0, done.output
    told = json.loads(Path("said.json").read_text())
    assert done.stdout.splitlines()[0] == told["verdict"]
    assert set(told["arms"]) == set(ARMS)
    assert len(told["arms"]["ours"]["by_seed"]) == 5
    assert Path("said.svg").read_text().startswith("<svg ")


def test_what_cannot_be_measured_is_refused(dataset):
    good = made(dataset, True)
    invoke("check", good)
    (dataset / "set/test").rename(dataset / "set/holdout")
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", good))
    assert line.endswith("needs a split called test (or val) that nothing is made of; held out are: holdout")
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", dataset / "nothing"))
    assert line.endswith("held out are: holdout")


def test_pictures_of_others_and_a_result_that_cannot_be_written(dataset):
    """What the messages offer works: the folder that has them, and another file."""
    good = made(dataset, True)
    invoke("check", good)
    other = made_of_others(dataset)
    invoke("check", other)
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", other))
    assert line.endswith("has no pictures of this recipe's originals: name the folder that they were made into")
    Path("file").touch()
    measured = measure_gain(Path("recipe.toml"), good, Settings(), Effort(1, 1))
    with pytest.raises(UserError, match=r"file/said\.json: cannot be written \(.*\): choose another file"):
        write_result(Path("file/said.json"), measured, {})
    write_result(Path("deeper/said.json"), measured, {})
    assert json.loads(Path("deeper/said.json").read_text())["verdict"] == measured.verdict()


def made_of_others(dataset: Path) -> Path:
    """A picture whose source is not in the dataset."""
    Image.fromarray(stripes("along", 9)).save(dataset / "elsewhere.png")
    one = made_from("x", 0, dataset / "elsewhere.png", png(stripes("along", 9)), SIZE, "elsewhere.png")
    manifest = write_jsonl(dataset / "others.jsonl", [{"id": "x", "prompt": "a", "image": "elsewhere.png"}])
    columns = pa.table({"label": ["along"], "source_sha256": [one.sources[0].sha256]})
    return output_folder(dataset / "others", manifest, [one], columns, (0,))
