"""`wanbatch augment --measure` on pictures whose worth is known: made ones that help, and made ones that do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from augment_making import made_from, output_folder, png
from command_line import invoke, refused, usage_error
from job_making import write_jsonl
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.augment import backbone
from wanbatch.jobs.augment.classifier import Examples, SmallNetwork
from wanbatch.jobs.augment.measuring import Effort, Material, measure_gain, write_result
from wanbatch.jobs.augment.statistics import ARMS, Measured
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


def made(dataset: Path, truthful: bool, count: int = 60) -> Path:
    """As many pictures, half of them of each class, of their class or of the other one."""
    other = {"across": "along", "along": "across"}
    records, labels, digests = [], [], []
    for index in range(count):
        label = ("across", "along")[index % 2]
        source = dataset / f"set/train/{label}/0.png"
        image = png(stripes(label if truthful else other[label], 5000 + index))
        records.append(made_from(f"{label}-{index}", index, source, image, SIZE, f"set/train/{label}/0.png"))
        labels.append(label)
        digests.append(records[-1].sources[0].sha256)
    rows = [{"id": one.id, "prompt": "a", "image": one.sources[0].path} for one in records]
    manifest = write_jsonl(dataset / "rows.jsonl", rows)
    columns = pa.table({"label": labels, "source_sha256": digests})
    return output_folder(dataset / f"made-{truthful}", manifest, records, columns, (0, count // 2))


def gain(out: Path, effort: Effort) -> Measured:
    return measure_gain(Material(Path("recipe.toml"), out, Settings()), SmallNetwork(), effort)


@pytest.mark.slow
def test_pictures_that_teach_the_class_help_and_those_of_the_other_class_do_not(dataset):
    good, bad = made(dataset, True), made(dataset, False)
    for out in (good, bad):
        assert invoke("check", out, "--recipe", "recipe.toml").exit_code == 0
    helped, hurt = (gain(out, Effort(16, 1)) for out in (good, bad))
    assert helped.pictures["real"] == 4
    assert helped.pictures["ours"] == 64
    assert helped.test == 40
    assert np.mean(helped.accuracies["ours"]) > 0.9
    assert helped.against("ours", "classic").mean > 0.05
    assert hurt.against("ours", "classic").mean < -0.2
    assert hurt.verdict().startswith("It does not pay here: ")


def test_the_command_writes_table_plot_and_numbers(dataset):
    good = made(dataset, True, 12)
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", good))
    assert line == f"{good}: is not checked yet: wanbatch check {good} says which pictures are filtered out"
    invoke("check", good)
    spoilt = min((good / "checks").iterdir())
    spoilt.write_bytes(spoilt.read_bytes()[:-20])
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", good))
    assert line.startswith(f"{spoilt.absolute()}: cannot be read (")
    assert line.endswith(f": `wanbatch check {good.absolute()}` writes it again")
    invoke("check", good)
    done = invoke("augment", "recipe.toml", "--measure", good, "--epochs", 1, "--result", "said.json")
    assert done.exit_code == 0, done.output
    told = json.loads(Path("said.json").read_text())
    assert done.stdout.splitlines()[0] == told["verdict"]
    assert set(told["arms"]) == set(ARMS)
    assert len(told["arms"]["ours"]["by_seed"]) == 5
    assert Path("said.svg").read_text().startswith("<svg ")


def slopes(path: str) -> str:
    """An ONNX file whose embeddings are how much a picture changes across and along: what the classes are about."""
    kernels = np.zeros((2, 3, 2, 2), np.float32)
    kernels[0, :, 0, 0] = kernels[1, :, 0, 0] = -1
    kernels[0, :, 0, 1] = kernels[1, :, 1, 0] = 1
    nodes = [
        helper.make_node("Conv", ["pixels", "kernels"], ["slopes"]),
        helper.make_node("Abs", ["slopes"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes", "axes"], ["embeddings"], keepdims=0),
    ]
    numbers = [numpy_helper.from_array(kernels, "kernels"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "slopes", inputs, outputs, numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_model_of_the_user_is_measured_by_its_embeddings(dataset, monkeypatch):
    """It knows the classes from four pictures, so that nothing is gained by it, and wrong pictures cost much."""
    monkeypatch.setattr(backbone, "SIDE", SIZE)
    # The small network, which is trained beside it, is what other tests are about.
    monkeypatch.setattr(SmallNetwork, "train_and_test", lambda self, train, test, *_: np.zeros(len(test), int))
    good, bad = made(dataset, True), made(dataset, False)
    told = []
    for out in (good, bad):
        invoke("check", out)
        flags = ["--embeddings", slopes("slopes.onnx"), "--epochs", 4, "--result", "said.json"]
        done = invoke("augment", "recipe.toml", "--measure", out, *flags)
        assert done.exit_code == 0, done.output
        told.append(json.loads(Path("said.json").read_text())["embeddings"])
        assert f"By embeddings of slopes.onnx: {told[-1]['verdict']}" in done.stdout
    helped, hurt = (one["arms"] for one in told)
    assert min(helped["real"]["accuracy"], helped["ours"]["accuracy"]) > 0.9
    assert told[0]["verdict"].startswith("It does not pay here: ")
    assert hurt["ours"]["accuracy"] < 0.3
    assert Path("said.embeddings.svg").read_text().startswith("<svg ")
    assert told[0]["model"] == "slopes.onnx"
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", good, "--embeddings", "none.onnx"))
    assert line.startswith("none.onnx: there is no such model: give an ONNX file")
    flags = ["--embeddings", "slopes.onnx"]
    assert "--embeddings is for --measure" in usage_error(invoke("augment", "recipe.toml", *flags))


def test_disturbed_copies_of_a_backbone_stay_with_their_pictures():
    """Embeddings are brightness: copies of a bright picture are bright, in whatever batch they are looked at."""

    class Brightness:
        def embeddings(self, pictures):
            return np.array([[one.mean()] for one in pictures])

    pictures = [(np.full((8, 8, 3), 40 + 150 * (number % 2), np.uint8), number % 2) for number in range(70)]
    seen = backbone.Backbone(Brightness()).examples(pictures, trained_on=True)
    assert seen.disturbed is not None
    assert seen.disturbed.shape == (70, backbone.COPIES, 1)
    assert len(np.unique(seen.disturbed)) > 70
    assert ((seen.disturbed > 100).mean(axis=(1, 2)) > 0.5).tolist() == [label == 1 for label in seen.labels]
    some = seen.where(seen.labels == 1).with_more(seen.where(seen.labels == 0))
    assert isinstance(some, Examples)
    assert (some.disturbed[:35].mean(axis=(1, 2)) > 100).all()


def test_what_cannot_be_measured_is_refused(dataset):
    good = made(dataset, True, 12)
    invoke("check", good)
    (dataset / "set/test").rename(dataset / "set/holdout")
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", good))
    assert line.endswith("needs a split called test (or val) that nothing is made of; held out are: holdout")
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", dataset / "nothing"))
    assert line.endswith("held out are: holdout")


def test_pictures_of_others_and_a_result_that_cannot_be_written(dataset):
    """What the messages offer works: the folder that has them, and another file."""
    good = made(dataset, True, 12)
    invoke("check", good)
    other = made_of_others(dataset)
    invoke("check", other)
    (line,) = refused(invoke("augment", "recipe.toml", "--measure", other))
    assert line.endswith("has no pictures of this recipe's originals: name the folder that they were made into")
    Path("file").touch()
    measured = gain(good, Effort(1, 1))
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
